"""Where a plan's actors live."""

from __future__ import annotations

from safe_rl.flow import Backend, LocalBackend


def make_backend(workers: int, address: str | None) -> Backend:
    """This process where there are no ``workers``, else Ray: the cluster at ``address``, or one of its own.

    Raises:
        UserError: Ray is missing, or nobody answers there.
    """
    if workers == 0:
        return LocalBackend()
    from safe_rl.flow import RayBackend

    return RayBackend(address=address)
