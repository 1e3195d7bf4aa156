# CPU image:   docker build -t yolov5-edgevit .
# Train:       docker run --rm --shm-size=2g -v "$PWD/runs:/app/runs" yolov5-edgevit python train.py --cfg models/yolov5_edgevit.yaml
# Your data:   add -v /path/to/data:/data and --data /data/data.yaml
# The folders mounted must be writable for user id 1000.
FROM python:3.11-slim-bookworm

# OpenCV loads these when it is imported
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /app
COPY requirements.txt ./
RUN pip install --no-cache-dir torch torchvision --index-url https://download.pytorch.org/whl/cpu \
    && pip install --no-cache-dir -r requirements.txt

RUN useradd --uid 1000 --create-home app && chown app:app /app
COPY --chown=app:app . .
USER app

CMD ["python", "detect.py"]
