"""How the web views are asked: where, and with the token, where there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from streamapp.settings import Settings


def base_url(settings: Settings) -> str:
    """Return the address at which a worker with *settings* is asked, without a slash behind it."""
    host = settings.web_advertise or settings.web_host
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.web_port}"


def token_headers(settings: Settings) -> dict[str, str]:
    """Return the headers with which a worker is asked."""
    if settings.web_token is None:
        return {}
    return {"Authorization": f"Bearer {settings.web_token.get_secret_value()}"}
