"""Requests for a shadow: a file in the state folder that a deploy writes, and removes when it is done."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from edgesparse.files import read_checked, untrusted
from edgesparse.shadow import MOST_BYTES, REQUEST, ShadowRequest

log = logging.getLogger("edgesparse.service")


class ShadowRequests:
    """Reads the request, if there is one that others than root and this user could not have written."""

    def __init__(self, folder: Path) -> None:
        self._path, self._fault = folder / REQUEST, ""

    def read(self) -> ShadowRequest | None:
        """Return the request; None if there is none, or if it cannot be used, which is logged once."""
        try:
            request = ShadowRequest.model_validate_json(
                read_checked(self._path, MOST_BYTES, self._check, os.O_NOFOLLOW)
            )
        except FileNotFoundError:
            fault, request = "", None
        except ValueError:
            fault, request = "it is not what a deploy writes", None
        except OSError as error:
            fault, request = str(error), None
        else:
            fault = ""
        if fault and fault != self._fault:
            log.warning("shadow: %s cannot be used: %s", self._path, fault)
        self._fault = fault
        return request

    def _check(self, status: os.stat_result) -> None:
        if why := untrusted(self._path, status):
            raise PermissionError(why)
