"""What a verb does from files to files, shared by the command line and the Python API."""
