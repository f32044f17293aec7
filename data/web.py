"""The HTTP client that the hub's library uses, whose errors come out of that library."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from huggingface_hub.utils import httpx
else:
    try:
        from huggingface_hub.utils import httpx  # from 1.31 on; in 2.0 it is a fork
    except ImportError:
        import httpx  # comes with the older huggingface_hub that lacks the name above

__all__ = ["httpx"]
