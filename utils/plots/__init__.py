"""Pictures and charts. YOLOv5's names are found here as well; the drawing libraries load when something is drawn."""

from utils.extras import lazy

CHARTS = "plot_confusion_matrix plot_evolve plot_labels plot_lr plot_mc_curve plot_pr_curve plot_results plot_val_study"
PICTURES = "Annotator feature_visualization output_to_targets plot_images save_one_box"

__getattr__ = lazy(
    {
        **dict.fromkeys(CHARTS.split(), "utils.plots.charts"),
        **dict.fromkeys(PICTURES.split(), "utils.plots.pictures"),
        "colors": "utils.plots.palette",
    },
    __name__,
)
