"""The JSON schemas of the OpenAPI document: annotations, errors, histories, datasets, layers."""

from __future__ import annotations

from typing import Any

from neurotrale.annotations.documents.validation import GEOMETRY

Json = dict[str, Any]


def _of(type_: str, **more: Any) -> Json:
    return {"type": type_, **more}


def _array(items: Json, **more: Any) -> Json:
    return {"type": "array", "items": items, **more}


def _object(properties: Json, **more: Any) -> Json:
    return {"type": "object", "required": list(properties), "properties": properties, **more}


def _by_name(value: Json, description: str) -> Json:
    return {"type": "object", "additionalProperties": value, "description": description}


_TEXT, _COUNT, _FLAG = _of("string"), _of("integer"), _of("boolean")
_TEXTS = _array(_TEXT)

# --- annotations ---

_POINT: Json = {"$ref": "#/components/schemas/Point"}
_ANNOTATION: Json = {
    "type": "object",
    "required": ["id"],
    "properties": {
        "id": {"type": "string", "minLength": 1, "description": "Unique within its file."},
        "type": {
            "type": "string",
            "description": f"Known types, in any case: {', '.join(GEOMETRY)}. Others are kept.",
        },
        "anntype": _of("string", description="The kind of object: neuron, glia, axon, ..."),
        "description": _TEXT,
        "reviewed": _FLAG,
        "visited": _FLAG,
        "length": _of("number"),
        "segments": _TEXTS,
        "points": _array(_POINT, description="linestring, polygon"),
        **dict.fromkeys(("point", "pointA", "pointB", "center", "radii"), _POINT),
    },
    "additionalProperties": True,
    "example": {
        "id": "9c1185a5c5e9fc54612808977ee8f548b2258d31",
        "type": "point",
        "anntype": "neuron",
        "point": [120.5, 88, 40],
        "reviewed": True,
    },
}


_CONFLICTS: Json = {
    "type": "object",
    "description": "Fields that somebody else had changed, too, by annotation.",
    "additionalProperties": _TEXTS,
}
_COUNTED = ("added", "changed", "removed", "held", "conflicts", "ignored", "stale")


def _written(key: str, schema: Json = _TEXT, **more: Json) -> Json:
    properties = {
        key: schema,
        **more,
        "warnings": _TEXTS,
        "kept": _COUNT,
        "ignored": _COUNT,
        "conflicts": _CONFLICTS,
    }
    return {"type": "object", "required": [key], "properties": properties}


# --- history ---

_CHANGE: Json = {
    "revision": _of("integer", minimum=1),
    "at": _of("string", description="ISO 8601, UTC."),
    "by": _TEXT,
    "from": _of("string", description="Address of the client."),
    "operation": {
        "type": "string",
        "enum": ["put", "patch", "delete", "restore", "confirm", "outside"],
    },
    "applied": _FLAG,
    "saves": _of(
        "integer",
        minimum=1,
        description=(
            "How many saves it stands for: a viewer saves at every step of a drag. `revision` is"
            " the number of the last one."
        ),
    ),
    "began": _of("string", description="Time of the first of these saves; ISO 8601, UTC."),
    "added": _TEXTS,
    "changed": _TEXTS,
    "removed": _TEXTS,
    "kept": _of("integer", description="Number of removals that this change held back."),
    "held": _TEXTS,
    "session": _of("string", description="Which viewer: a hash; empty for other clients."),
    "operations": {**_TEXTS, "description": "The Idempotency-Key of each request that had one."},
    "conflicts": _CONFLICTS,
    "ignored": {**_TEXTS, "description": "Dropped because the user left the slice; they stay."},
    "stale": {**_TEXTS, "description": "Not put back to an older revision."},
    "counts": {
        "type": "object",
        "description": "How many ids there are of each; the lists hold the first few.",
        "properties": {kind: _of("integer", minimum=0) for kind in _COUNTED},
    },
    "restored": _COUNT,
}
_HISTORY: Json = {
    "type": "object",
    "required": ["filename", "changes"],
    "properties": {
        "filename": _TEXT,
        "changes": _array({"type": "object", "properties": _CHANGE}),
        "next": _of("integer", description="`before` of the next page."),
        "discarded": _of("string", description="Which records were discarded; on the last page."),
    },
}

_NOTICE = _object(
    {key: _CHANGE[key] for key in ("revision", "at", "by", "from", "operation", "session")}
    | {"saves": _of("integer", description="How many saves it stands for: a drag is one change.")}
    | {"etag": _of("string", nullable=True, description="Of the file after the change.")}
    | dict.fromkeys(("added", "changed", "removed"), _TEXTS)
    | {
        "held": {**_TEXTS, "description": "The first few whose removal is held back after it."},
        "kept": _CHANGE["kept"],
        "cut": _of("boolean", description="The ids are left out: load the file again."),
    }
)
_CHANGES: Json = {
    "type": "object",
    "required": ["filename", "last", "etag", "outside", "reset", "more", "changes"],
    "properties": {
        "filename": _TEXT,
        "last": _of("integer", minimum=0, description="The next `since`."),
        "etag": _of("string", nullable=True, description="Of the file now; null: there is none."),
        "outside": _of("boolean", description="Another program has written the file since."),
        "reset": _of("boolean", description="The journal does not tell: load the file again."),
        "reason": _of("string", description="Why, if `reset`."),
        "more": _of("boolean", description="There are more changes already: ask at once."),
        "changes": _array(_NOTICE, description="Oldest first."),
        "annotations": {
            "type": "object",
            "description": "By id, those that the changes touched and that are in the file now.",
            "additionalProperties": _object(
                {"etag": _TEXT, "annotation": {"$ref": "#/components/schemas/Annotation"}}
            ),
        },
    },
}

_MINE = _object(
    {
        "session": _of("string", description="Label of the viewer."),
        "saves": _of("integer", description="How many of its saves are recorded."),
        "changes": _array(
            {
                "type": "object",
                "required": ["file", "revision", "at", "by"],
                "properties": {
                    "file": _TEXT,
                    "revision": _COUNT,
                    "at": _TEXT,
                    "by": _TEXT,
                    "held": _array(_TEXT, description="Ids whose removal is still held back."),
                    "conflicts": {
                        "type": "object",
                        "additionalProperties": _TEXTS,
                        "description": "Fields that somebody else had changed, too, by id.",
                    },
                    "ignored": _array(_TEXT, description="Ids dropped by leaving a slice; kept."),
                    "stale": _array(_TEXT, description="Ids from an old copy; left as they were."),
                },
            }
        ),
        "refused": _array(
            _object({"at": _TEXT, "file": _TEXT, "status": _COUNT, "reason": _TEXT}),
            description="Saves of which nothing was done.",
        ),
    }
)

# --- datasets ---

_VOXELS = _array(_COUNT, description="(x, y, z)")
_LENGTHS = _array(_of("number"), description="(x, y, z)")
_LEVEL = _object(
    {
        "key": _TEXT,
        "size_vx": _VOXELS,
        "voxel_nm": _LENGTHS,
        "chunk_vx": _VOXELS,
        "encoding": _TEXT,
        "sharded": _FLAG,
        "layout": _of("string", description="Of voxels that are not files of chunks; else empty."),
    }
)
_VOLUME: Json = {
    "type": "object",
    "nullable": True,
    "required": ["type", "data_type", "channels", "levels"],
    "properties": {
        "type": _TEXT,
        "data_type": _TEXT,
        "channels": _COUNT,
        "levels": _array(_LEVEL),
        "size_vx": _VOXELS,
        "size_mm": _LENGTHS,
        "voxel_nm": _LENGTHS,
    },
}
_IDENTITY = _object(
    {
        "id": _of("string", description="The same as long as the dataset is not copied."),
        "derived": _of("boolean", description="No id could be stored; this one may change."),
        "copied_from": _of("string", nullable=True, description="Id of what this is a copy of."),
    }
)
_KIND = _object({"anntype": _TEXT, "type": _TEXT, "count": _COUNT, "reviewed": _COUNT})
_ANNOTATIONS = _object(
    {
        "files": _COUNT,
        "count": _COUNT,
        "reviewed": _COUNT,
        "kinds": _array(_KIND),
        "damaged": _TEXTS,
        "held": _COUNT,
        "counting": _object(
            {"blocks": _COUNT, "of": _COUNT},
            nullable=True,
            description="How many of the blocks are counted, until all are.",
        ),
        "checked": _of(
            "string",
            nullable=True,
            description="When the counts of a large dataset were compared with its files.",
        ),
    },
    nullable=True,
)

# --- layers ---

_LAYERS = _object(
    {
        "layers": _by_name(_COUNT, "Number of annotations of each kind present."),
        "skipped": _by_name(_COUNT, "Number of annotations that cannot be drawn, by reason."),
        "damaged": _by_name(_TEXT, "Files that are not a JSON array, and what is wrong with each."),
    }
)

SCHEMAS: dict[str, Json] = {
    "Error": _object({"title": _TEXT, "description": _TEXT}),
    "Point": _array(
        _of("number", nullable=True),
        minItems=3,
        maxItems=3,
        description="A position (x, y, z) in voxels; null stands for NaN.",
    ),
    "Annotation": _ANNOTATION,
    "History": _HISTORY,
    "Changes": _CHANGES,
    "Mine": _MINE,
    "Dataset": _object(
        {
            "name": _TEXT,
            "identity": _IDENTITY,
            "volume": _VOLUME,
            "annotations": _ANNOTATIONS,
            "preview": _FLAG,
        }
    ),
    "Layers": _LAYERS,
    "Origin": _object(
        {"file": _of("string", description="Relative to the data root."), "id": _TEXT}
    ),
    "Stored": _written("filename"),
    "Changed": _written("id"),
    "ChangedMany": _written(
        "ids", _TEXTS, created={**_TEXTS, "description": "Those that are new, of a PATCH."}
    ),
}
