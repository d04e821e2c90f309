"""The program `edgesparse`, also as `python -m edgesparse`."""

from __future__ import annotations

import sys


def main() -> None:
    if "--service" in sys.argv:
        from edgesparse.service.signals import hold_reload

        hold_reload()  # before the imports below, which take half a second: SIGHUP would end the process
    from edgesparse import cli

    cli.main()


if __name__ == "__main__":
    main()
