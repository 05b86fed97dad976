"""Where symbolic links lead: below a root whatever its name, or to what does not exist here."""

from __future__ import annotations

import os

from neurotrale.storage.names import Parts

_IMAGE = "/.singularity.d"  # in every container of Apptainer


def parts_below(root: str, path: str) -> Parts | None:
    """Return the names from a root down to a path.

    A root can have several names: on clusters a link to the real directory, as ``/scratch`` is to
    ``/lustre/x``. Where both are bound into a container, no link is left there, so the directories
    above the path are compared with the root itself.

    Args:
        root: The root, without links.
        path: A path without links, which need not exist.

    Returns:
        The names; None for a path outside the root.
    """
    prefix = root.rstrip("/") + "/"
    if f"{path}/".startswith(prefix):
        return tuple(filter(None, path[len(prefix) :].split("/")))
    try:
        status = os.stat(root)
    except OSError:
        return None
    above = path
    while above != os.path.dirname(above):
        try:
            if os.path.samestat(os.stat(above), status):
                return tuple(filter(None, path[len(above) :].split("/")))
        except OSError:
            pass  # it does not exist, or may not be looked at: not a name of the root
        above = os.path.dirname(above)
    return None


def what_is_missing(real: str) -> str | None:
    """Return what is wrong with a link's target that does not exist; None for one that does.

    Args:
        real: The target, with links resolved.
    """
    if os.path.lexists(real):
        return None
    if not os.path.isdir(_IMAGE):
        return "which does not exist"
    above = os.path.dirname(real)
    return f"which is not in this container (bind it: --bind {real if above == '/' else above})"
