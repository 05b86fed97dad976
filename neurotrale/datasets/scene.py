"""What the viewer shows when a data set is opened: Neuroglancer's state as JSON.

Sources are relative to the root of the service; the page that opens the viewer knows where that is.
Source of the format: Neuroglancer, `src/viewer.ts` and `python/neuroglancer/viewer_state.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from urllib.parse import quote

from neurotrale.chunks.info import Info, Scale
from neurotrale.datasets.contrast import Window
from neurotrale.names import Parts

State = dict[str, object]

# One of four panels in a window of 1280 x 800 pixels, with a margin; the page that opens the viewer
# knows the size of the real one.
PANEL_PX = (600, 350)

# `type` of an annotation -> the source that draws it, below `annotations/layers/`.
SOURCES = {
    "point": "points",
    "line": "lines",
    "axis_aligned_bounding_box": "boxes",
    "ellipsoid": "ellipsoids",
    "linestring": "polylines",
    "polygon": "polylines",
}
_COLOURS = {
    "points": "#ffd400",
    "lines": "#7ee081",
    "boxes": "#ff8c42",
    "ellipsoids": "#e36bff",
    "polylines": "#35d0ff",
}
_LINE = "void main() {\n  setColor(defaultColor());\n  setLineWidth(2.0);\n%s}\n"
# Without the discs that the viewer puts on each vertex, of which fibers have hundreds.
_BARE = "  setEndpointMarkerSize(0.0);\n  setEndpointMarkerBorderWidth(0.0);\n"
_SHADERS = {
    "points": "void main() {\n  setColor(defaultColor());\n  setPointMarkerSize(6.0);\n}\n",
    "lines": _LINE % "",
    "polylines": _LINE % _BARE,
}
# The volume a little from the side.
_TILTED = [0.25, -0.35, 0.1, 0.897]
_CHANNELS = ("red", "green", "blue")


def scene(
    dataset: Parts, info: Info | None, contrast: Sequence[Window] | None, types: Iterable[str]
) -> State:
    """Compose the state.

    Args:
        dataset: The data set.
        info: Of its volume; None when it has annotations only.
        contrast: A window for each channel, when it is known.
        types: The `type` of its annotations, in lower case; each kind gets a layer.
    """
    source = "./" + quote("/".join(dataset))
    name = dataset[-1] if dataset else "volume"
    state: State = {}
    layers: list[State] = []
    if info is not None and info.scales:
        state.update(_view(info.scales[0]))
        layers.append({"name": name, "source": source, **_volume(info, contrast)})
    above = f"{source}/annotations" if dataset else "./annotations"
    for kind in dict.fromkeys(SOURCES[type_] for type_ in sorted(types) if type_ in SOURCES):
        layer: State = {"type": "annotation", "name": kind, "annotationColor": _COLOURS[kind]}
        if kind in _SHADERS:
            layer["shader"] = _SHADERS[kind]
        layers.append({**layer, "source": f"{above}/layers/{kind}"})
        state["showSlices"] = False  # in the panel that shows space they would hide annotations
    state["layers"] = layers
    state["layout"] = "4panel"
    if layers:
        state["selectedLayer"] = {"layer": layers[0]["name"], "visible": False}
    return state


def _view(scale: Scale) -> State:
    """Show the middle of a volume, all of it in each panel."""
    voxel_nm = min(scale.resolution)
    sizes = [n * nm / voxel_nm for n, nm in zip(scale.size, scale.resolution, strict=True)]
    x, y, z = sizes
    width, height = PANEL_PX
    # Panels show (x, y), (x, z) and (z, y) alike enlarged.
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


def _volume(info: Info, contrast: Sequence[Window] | None) -> State:
    if info.type == "segmentation":
        return {"type": "segmentation"}
    if info.num_channels == 1:
        controls = "#uicontrol invlerp normalized\n"
        shader = "void main() {\n  emitGrayscale(normalized());\n}\n"
        names: Sequence[str] = ("normalized",)
    else:
        names = _CHANNELS[: info.num_channels]
        controls = "".join(
            f"#uicontrol invlerp {name}(channel={channel})\n" for channel, name in enumerate(names)
        )
        levels = ", ".join([*(f"{name}()" for name in names), "0.0"][:3])
        shader = f"void main() {{\n  emitRGB(vec3({levels}));\n}}\n"
    layer: State = {"type": "image", "shader": controls + shader}
    if contrast is not None:
        windows = zip(names, contrast, strict=False)
        layer["shaderControls"] = {name: {"range": list(window)} for name, window in windows}
    return layer
