"""A ROS 2 node: sensor_msgs/Image in, vision_msgs/Detection2DArray out. Not run here: it needs a ROS 2 installation.

source /opt/ros/jazzy/setup.bash
PYTHONPATH=. python examples/ros2_node.py --ros-args -p weights:=best.onnx -r image:=/camera/image_raw
"""

import rclpy
from cv_bridge import CvBridge
from rclpy.node import Node
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

from extras.clients.boxes import BoxFinder


class DetectorNode(Node):
    """Boxes of each picture on the topic `detections`, with the picture's header."""

    def __init__(self):
        super().__init__("detector")
        self.declare_parameter("weights", "best.onnx")
        self.declare_parameter("conf_thres", 0.25)
        weights, conf = (self.get_parameter(name).value for name in ("weights", "conf_thres"))
        self.find, self.bridge = BoxFinder(weights, conf), CvBridge()
        self.publisher = self.create_publisher(Detection2DArray, "detections", 10)
        self.create_subscription(Image, "image", self.detect, rclpy.qos.qos_profile_sensor_data)

    def detect(self, message: Image) -> None:
        found = Detection2DArray(header=message.header)
        for x1, y1, x2, y2, score, cls in self.find(self.bridge.imgmsg_to_cv2(message, "rgb8")).tolist():
            hypothesis = ObjectHypothesisWithPose()
            hypothesis.hypothesis.class_id, hypothesis.hypothesis.score = self.find.names[int(cls)], score
            detection = Detection2D(header=message.header, results=[hypothesis])
            detection.bbox.center.position.x, detection.bbox.center.position.y = (x1 + x2) / 2, (y1 + y2) / 2
            detection.bbox.size_x, detection.bbox.size_y = x2 - x1, y2 - y1
            found.detections.append(detection)
        self.publisher.publish(found)


if __name__ == "__main__":
    rclpy.init()
    rclpy.spin(DetectorNode())
