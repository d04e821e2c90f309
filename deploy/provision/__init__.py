"""Provisions one device with the system's Python and nothing else installed. scripts/provision starts it.

`steps.py` is the table of steps; only `system.py` touches the machine. It uses the standard library only, in the syntax
of Python 3.8, so that JetPack 5 is refused with a message and not a syntax error.
"""
