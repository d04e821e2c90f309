"""Labels of data sets: reading, checking and matching with a detector's classes."""
