"""Provisioning of one device, by the system's own Python with nothing installed. scripts/provision starts it.

`steps.py` is the table of what is done; `system.py` is all that touches the machine. It runs wherever a Jetson's system
Python does: only the standard library, and only what Python 3.8 understands, so that JetPack 5 is refused in words.
"""
