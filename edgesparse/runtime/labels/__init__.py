"""Labels of data sets: read, checked once, and matched with a detector's classes."""
