"""The state that a viewer shows a dataset with.

Source of the format: Neuroglancer, `src/viewer.ts` and `python/neuroglancer/viewer_state.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from urllib.parse import quote

from neurotrale.datasets.thumbnail import Window
from neurotrale.layers.geometry import KIND_OF, GeometryKind
from neurotrale.precomputed.info import Info, Scale
from neurotrale.storage.names import Parts

State = dict[str, object]
"""Neuroglancer's state as JSON. Sources in it are relative to the root of the service; the page
that opens the viewer makes them absolute."""

# One of four panels in a window of 1280 x 800 pixels, with a margin; the page that opens the viewer
# adjusts the scale to the real window.
PANEL_PX = (600, 350)
MOST_NAME = 40

_COLOURS = {
    GeometryKind.POINTS: "#ffd400",
    GeometryKind.LINES: "#7ee081",
    GeometryKind.BOXES: "#ff8c42",
    GeometryKind.ELLIPSOIDS: "#e36bff",
    GeometryKind.POLYLINES: "#35d0ff",
}
_LINE = "void main() {\n  setColor(defaultColor());\n  setLineWidth(2.0);\n%s}\n"
# Without the discs that the viewer draws on each vertex: fibers have hundreds of vertices.
_BARE = "  setEndpointMarkerSize(0.0);\n  setEndpointMarkerBorderWidth(0.0);\n"
_SHADERS = {
    GeometryKind.POINTS: (
        "void main() {\n  setColor(defaultColor());\n  setPointMarkerSize(6.0);\n}\n"
    ),
    GeometryKind.LINES: _LINE % "",
    GeometryKind.POLYLINES: _LINE % _BARE,
}
# The volume seen slightly from the side.
_TILTED = [0.25, -0.35, 0.1, 0.897]
_CHANNELS = {
    "red": "1.0, 0.0, 0.0",
    "green": "0.0, 1.0, 0.0",
    "blue": "0.0, 0.0, 1.0",
    "magenta": "1.0, 0.0, 1.0",
    "cyan": "0.0, 1.0, 1.0",
    "yellow": "1.0, 1.0, 0.0",
    "grey": "1.0, 1.0, 1.0",
}


def viewer_state(
    dataset: Parts,
    info: Info | None,
    contrast: Sequence[Window] | None,
    types: Iterable[str],
    *,
    plain: bool = False,
) -> State:
    """Compose the viewer state that shows a dataset.

    Args:
        dataset: The dataset.
        info: The `info` of its volume; None if it has annotations only.
        contrast: The contrast window of each channel; None if unknown.
        types: Every `type` of its annotations, in lower case; each kind gets a layer.
        plain: Use only what every release of the viewer understands: no `#uicontrol invlerp`,
            so the contrast is fixed.
    """
    source = "./" + quote("/".join(dataset))
    name = dataset[-1] if dataset else "volume"
    state: State = {}
    layers: list[State] = []
    if info is not None and info.scales:
        state.update(_view(info.scales[0]))
        layers.append({"name": name, "source": source, **_volume(info, contrast, plain=plain)})
    annotations = f"{source}/annotations" if dataset else "./annotations"
    for kind in dict.fromkeys(KIND_OF[type_] for type_ in sorted(types) if type_ in KIND_OF):
        layer: State = {"type": "annotation", "name": kind.value, "annotationColor": _COLOURS[kind]}
        if kind in _SHADERS:
            layer["shader"] = _SHADERS[kind]
        layers.append({**layer, "source": f"{annotations}/layers/{kind.value}"})
        state["showSlices"] = False  # in the 3-D panel, slices would hide annotations
    state["layers"] = layers
    state["layout"] = "4panel"
    if layers:
        state["selectedLayer"] = {"layer": layers[0]["name"], "visible": False}
    return state


def _view(scale: Scale) -> State:
    """Return the part of the state that shows a whole volume, centred, in each panel."""
    voxel_nm = min(scale.resolution)
    sizes = [n * nm / voxel_nm for n, nm in zip(scale.size, scale.resolution, strict=True)]
    x, y, z = sizes
    width, height = PANEL_PX
    # The panels show (x, y), (x, z) and (z, y) at the same scale.
    pixel = max(max(x, z) / width, max(y, z) / height)
    middle = [
        offset + n // 2 + 0.5 for offset, n in zip(scale.voxel_offset, scale.size, strict=True)
    ]
    return {
        "dimensions": {
            axis: [nm / 1e9, "m"] for axis, nm in zip("xyz", scale.resolution, strict=True)
        },
        "position": middle,
        "crossSectionScale": round(pixel, 6),
        "projectionScale": round(1.5 * max(sizes), 6),
        "projectionOrientation": _TILTED,
    }


def _volume(info: Info, contrast: Sequence[Window] | None, *, plain: bool) -> State:
    if info.type == "segmentation":
        return {"type": "segmentation"}
    if plain:
        return {"type": "image", "shader": plain_shader(info, contrast)}
    if info.num_channels == 1:
        controls = "#uicontrol invlerp normalized\n"
        shader = "void main() {\n  emitGrayscale(normalized());\n}\n"
        names: Sequence[str] = ("normalized",)
    else:
        names = _control_names(info)
        controls = "".join(
            f"#uicontrol invlerp {name}(channel={channel})\n" for channel, name in enumerate(names)
        )
        mixture = _mixed([f"{name}()" for name in names], info)
        shader = f"void main() {{\n  emitRGB({mixture});\n}}\n"
    layer: State = {"type": "image", "shader": controls + shader}
    if contrast is not None:
        windows = zip(names, contrast, strict=False)
        layer["shaderControls"] = {name: {"range": list(window)} for name, window in windows}
    return layer


def plain_shader(info: Info, contrast: Sequence[Window] | None) -> str:
    """Return a shader without controls, for viewers that do not know `#uicontrol invlerp`.

    Args:
        info: The volume.
        contrast: The window of each channel, in units of the data; None for the whole range.
    """
    levels = []
    for channel in range(min(info.num_channels, len(_CHANNELS) if info.styles else 3)):
        value = "getDataValue()" if info.num_channels == 1 else f"getDataValue({channel})"
        if contrast is None or channel >= len(contrast) or info.data_type == "uint64":
            levels.append(f"toNormalized({value})")
        else:
            low, high = map(float, contrast[channel])
            width = high - low or 1.0
            levels.append(f"clamp((float(toRaw({value})) - {low!r}) / {width!r}, 0.0, 1.0)")
    if info.num_channels == 1:
        return f"void main() {{\n  emitGrayscale({levels[0]});\n}}\n"
    return f"void main() {{\n  emitRGB({_mixed(levels, info)});\n}}\n"


def _control_names(info: Info) -> list[str]:
    """Return the name of the control of each channel that is shown: a word that GLSL allows."""
    names = list(_CHANNELS)[: info.num_channels]
    if not info.styles:
        return names
    words = [re.sub(r"[^A-Za-z0-9]+", "_", one.name).strip("_") for one in info.styles]
    # With a number at its end, it is none of the words that GLSL keeps for itself.
    return [
        f"{word if word[:1].isalpha() and len(word) <= MOST_NAME else 'channel'}_{number}"
        for number, (word, _) in enumerate(zip(words, names, strict=False), 1)
    ]


def _mixed(levels: Sequence[str], info: Info) -> str:
    """Return the GLSL expression of the colour of a voxel: red, green and blue, or a mixture."""
    if info.styles:
        colours = [_vector(one.color) for one in info.styles]
    elif len(levels) <= 3:
        return f"vec3({', '.join([*levels, '0.0'][:3])})"
    else:
        colours = list(_CHANNELS.values())
    pairs = zip(levels, colours, strict=False)
    return " + ".join(f"{level} * vec3({colour})" for level, colour in pairs)


def _vector(colour: str) -> str:
    """Return ``#rrggbb`` as the numbers of a GLSL vector."""
    return ", ".join(f"{part / 255:.3f}" for part in bytes.fromhex(colour[1:]))
