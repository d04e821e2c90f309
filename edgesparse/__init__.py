"""edgesparse: really sparse, really measured engines for YOLO-style detectors on small devices."""

__version__ = "0.1.0"
