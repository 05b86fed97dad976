"""Every kind of finding: how grave it is, what viewers will show, and how it is mended.

An *error* hides or breaks data that are there; a *warning* is something that viewers cope with, but
perhaps not as was meant; a *note* is only worth knowing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: Final[tuple[Severity, ...]] = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of finding.

    Attributes:
        name: For scripts; it never changes.
        severity: How grave it is.
        what: What is wrong, in a few words.
        viewer: What people will see.
        mend: What to do.
    """

    name: str
    severity: Severity
    what: str
    viewer: str
    mend: str


def _error(name: str, what: str, viewer: str, mend: str) -> Kind:
    return Kind(name, "error", what, viewer, mend)


def _warning(name: str, what: str, viewer: str, mend: str) -> Kind:
    return Kind(name, "warning", what, viewer, mend)


def _note(name: str, what: str, viewer: str, mend: str) -> Kind:
    return Kind(name, "note", what, viewer, mend)


_TABLE: Final = (
    _error(
        "info-missing",
        "there is no info file",
        "The source does not open: viewers say that no data set was found there.",
        "Write an info file, or name the directory that has one. 'neurotrale ingest' makes it.",
    ),
    _error(
        "info-broken",
        "info cannot be understood",
        "The source does not open; the service answers 500 for its chunks.",
        "Correct the place that is named; Neuroglancer's Precomputed format says what belongs"
        " there.",
    ),
    _error(
        "scale-broken",
        "info describes a scale that cannot be",
        "Neuroglancer refuses the whole source.",
        "Correct the scale in info.",
    ),
    _error(
        "scale-missing",
        "a scale has no chunks at all",
        "Nothing at this zoom: the picture vanishes or stays as coarse as the next scale.",
        "Make the chunks of the scale, or take it out of info.",
    ),
    _error(
        "chunk-missing",
        "chunks are missing",
        "Black boxes, without a message: a chunk that is not there is drawn as empty.",
        "Write them again, as with 'neurotrale ingest' of the same planes. If they are absent"
        " because they are empty, say --sparse.",
    ),
    _error(
        "chunk-damaged",
        "chunks are damaged, or not what info and their names promise",
        "An error instead of the chunk (status 500, or data that cannot be unpacked), and an empty"
        " box.",
        "Write them again: from the planes, or from a copy. Where all have another data type or"
        " extent than info states, info is what is wrong.",
    ),
    _error(
        "chunk-encoding",
        "TIFF chunks in a scale of another encoding than raw",
        "An error for every chunk (status 500).",
        "Change the encoding of the scale in info to 'raw'.",
    ),
    _error(
        "chunk-off-grid",
        "chunks whose names do not fit the grid of info",
        "They are never asked for: empty boxes in their place.",
        "Correct size, chunk_sizes or voxel_offset in info if they are right, else write the"
        " chunks again. Ends are clipped at the volume's edge, numbers have no leading zeros.",
    ),
    _error(
        "shard-damaged",
        "shard files are damaged",
        "Errors, or empty boxes, for the chunks in them.",
        "Write them again: from the planes, or from a copy.",
    ),
    _error(
        "shard-misplaced",
        "chunks in a shard where no reader looks for them",
        "They are never found: empty boxes.",
        "Write the shards again, or correct 'sharding' in info.",
    ),
    _error(
        "unreadable",
        "permissions or the file system forbid to read",
        "Empty boxes or no annotations, without a message (status 403).",
        "Give the user who runs the service read permission on files (chmod a+r), and read and"
        " execute permission on directories (chmod a+rx).",
    ),
    _error(
        "link-outside",
        "symbolic links that leave the data root",
        "As if there were nothing (status 404).",
        "Move the files below the data root, name a root that holds them, or start the service"
        " with --follow-symlinks.",
    ),
    _error(
        "link-broken",
        "symbolic links that lead nowhere",
        "As if there were nothing (status 404).",
        "Remove the link, or bring back what it leads to.",
    ),
    _error(
        "annotations-empty",
        "annotation files without any content",
        "No annotations there; the service answers 500, and saving one annotation fails.",
        "If the file has a history: 'neurotrale restore FILE --revision N'. Else write '[]' into"
        " it.",
    ),
    _error(
        "annotations-broken",
        "annotation files that are no JSON array",
        "No annotations there; the service answers 500, and saving one annotation fails.",
        "Correct the place that is named, or bring back an earlier version with 'neurotrale"
        " restore FILE --revision N'.",
    ),
    _error(
        "annotation-malformed",
        "annotations that break a rule",
        "NeuroTrALE shows an alert and drops all annotations of that kind, and saves the file"
        " without them.",
        "Correct the places that are named; the README lists the rules.",
    ),
    _error(
        "id-repeated",
        "ids that stand in a file more than once",
        "Which of them is shown and changed is unclear; PATCH and DELETE are refused (409), and so"
        " is the next save of the file.",
        "Give each annotation an id of its own.",
    ),
    _warning(
        "edge-missing",
        "chunks at the far edge of a coarser scale are missing",
        "An empty rim when zoomed out. precomputed-tif leaves them out, as it counts them one"
        " short.",
        "None is needed. 'neurotrale ingest' of the same planes makes them.",
    ),
    _warning(
        "never-served",
        "names that are never served",
        "As if there were nothing (status 404).",
        "Rename them: no leading dot, no backslash, no control characters, UTF-8.",
    ),
    _warning(
        "blocks-mixed",
        "blocks named in two ways",
        "Of a block that is there under both names only x1y0z0 is shown; new blocks get the old"
        " kind of name.",
        "Rename x0002_y0001 to x1y0z0 and so on: counted from 0, with z.",
    ),
    _warning(
        "block-size",
        "block_info.csv is missing or malformed",
        "Only the annotations of the first block: a position in the volume leads to no block.",
        "Write the block size in voxels into annotations/block_info.csv, as in 250,420,150.",
    ),
    _warning(
        "block-outside",
        "blocks outside the volume",
        "Never: no position in the volume leads there.",
        "Correct block_info.csv, or move the annotations to the block that they lie in.",
    ),
    _warning(
        "id-elsewhere",
        "ids that stand in several files",
        "The viewer keeps one annotation for an id: where both files are loaded, one is not shown.",
        "Give each annotation an id of its own, or remove the copy.",
    ),
    _warning(
        "slice-name",
        "contours of a slice whose number has not four digits",
        "Never: the viewer asks for the last four digits, with zeros in front.",
        "Rename z-7.json to z-0007.json. For slices above 9999 split the volume along z, or keep"
        " such contours in another file of the block.",
    ),
    _warning(
        "tree-broken",
        "tree.json cannot be read as JSON",
        "The tree is not shown.",
        "Correct or remove it.",
    ),
    _note(
        "slices-many",
        "the volume has more than 9999 slices",
        "Contours of slices 10,000 apart come from one file: its name has four digits only.",
        "None is needed where nobody draws contours; else split the volume along z.",
    ),
    _note(
        "annotation-odd",
        "annotations with something unusual, which is kept",
        "Perhaps not at all.",
        "None is needed.",
    ),
    _note(
        "chunk-twice",
        "chunks that are stored in several files",
        "Only the first is served, of the name itself, .tiff, .tif, .gz and .br, in this order.",
        "Remove the other.",
    ),
    _note(
        "stray",
        "files and directories that belong to nothing",
        "Nothing: no viewer asks for them.",
        "Remove them, or keep them elsewhere; a mistyped name is to be corrected.",
    ),
    _note(
        "leftover",
        "temporary files of a writer that died, or is at work",
        "Nothing.",
        "Remove them when no ingest or repack is running.",
    ),
    _note(
        "not-looked-into",
        "what this check cannot judge",
        "Unknown.",
        "None is needed.",
    ),
)
KINDS: Final = {kind.name: kind for kind in _TABLE}
