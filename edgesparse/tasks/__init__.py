"""The work of each verb, from files to files, shared by the command line and the Python API."""
