"""Calls the address of an outside monitor, which alarms when the calls stop: a dead daemon tells nobody itself."""

from __future__ import annotations

from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from product_sync.settings import HEARTBEAT_URL

#: Seconds for one operation of the socket; the caller has a limit for the whole (`telling`).
TIMEOUT_S = 5.0


def beat(url: str) -> str:
    """One GET. Returns what went wrong, or an empty string; the URL, which holds a token, is not in it."""
    request = Request(url, headers={"User-Agent": "product_sync"})  # noqa: S310 - http(s) only: `settings`
    try:
        with urlopen(request, timeout=TIMEOUT_S):  # noqa: S310 - as above
            return ""
    except HTTPError as error:
        error.close()
        return f"{HEARTBEAT_URL} answered {error.code}."
    except (OSError, HTTPException, ValueError) as error:
        return f"{HEARTBEAT_URL} cannot be reached ({type(error).__name__})."
