"""What a data set is, in the words of its `info`."""

from __future__ import annotations

from neurotrale.chunks.info import Info, Scale

Json = dict[str, object]


def volume_summary(info: Info) -> Json:
    """Describe a volume for JSON: sizes in voxels and mm, voxels in nm, each (x, y, z)."""
    summary: Json = {
        "type": info.type,
        "data_type": info.data_type,
        "channels": info.num_channels,
        "levels": [_level(scale) for scale in info.scales],
    }
    if info.scales:
        finest = info.scales[0]
        extent = zip(finest.size, finest.resolution, strict=True)
        summary["size_vx"] = list(finest.size)
        summary["size_mm"] = [round(n * nm / 1e6, 6) for n, nm in extent]
        summary["voxel_nm"] = list(finest.resolution)
    return summary


def _level(scale: Scale) -> Json:
    return {
        "key": scale.key,
        "size_vx": list(scale.size),
        "voxel_nm": list(scale.resolution),
        "chunk_vx": list(scale.chunk_sizes[0]) if scale.chunk_sizes else [],
        "encoding": scale.encoding,
        "sharded": scale.sharding is not None,
    }
