"""YOLOv5's table of formats."""

from models.backends import FORMATS


def export_formats():
    """Return a DataFrame of the formats: Format, Argument (of --include), Suffix, CPU and GPU (where it runs)."""
    import pandas as pd

    rows = [(f.title, f.key if f.exports else "-", f.suffixes[0], f.key != "engine", f.key in GPU) for f in FORMATS]
    return pd.DataFrame(rows, columns=["Format", "Argument", "Suffix", "CPU", "GPU"])


GPU = ("pt", "torchscript", "engine")
