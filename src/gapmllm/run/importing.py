"""Released annotation files as a data set, so that a released model can be evaluated on them in one command."""

from __future__ import annotations

from pathlib import Path

from gapmllm.run.progress import Track, untracked
from gapmllm.scenes.dataset import DatasetWriter
from gapmllm.scenes.importers.base import ImportOptions
from gapmllm.scenes.importers.released import ReleasedRecords
from gapmllm.scenes.manifest import file_hash
from gapmllm.scenes.pipeline import ImportScene, write_scenes
from gapmllm.tasks.questions import AskQuestions


def import_released(
    annotations: Path, media: Path | None, split: str, out: Path, track: Track = untracked
) -> tuple[str, ...]:
    """Write the records of a JSON file, with their images, as a data set; continues one that was stopped.

    media: folder that the paths in the file start from; None: looked for beside the file. Returns what could not be
    used. ValueError if that is all of it, or the folder holds another data set.
    """
    if not ReleasedRecords.recognises(annotations):
        raise ValueError(f"{annotations} is no data set's folder, and no JSON list of released records (conversations)")
    options = ImportOptions(split=split, annotations=annotations)
    importer = ReleasedRecords(media or annotations, options)
    made_by = {"command": "eval", "annotations": annotations.name, "sha256": file_hash(annotations)}
    made_by |= {"media": str(media or ""), "split": split}
    with DatasetWriter(out, made_by) as writer:
        names = [name for name in importer.scene_ids() if name not in writer.done]
        outcomes = write_scenes(writer, names, ImportScene(importer, AskQuestions(None)), workers=1)
        for _ in track(outcomes, len(names), f"import {annotations.name}"):
            pass
    dropped = writer.manifest.dropped
    if not writer.manifest.shards:
        why = f": {dropped[0].example}" if dropped else ""
        raise ValueError(f"{annotations}: no record can be used{why}; --media names the folder of the images")
    first = {entry.kind: entry.example for entry in reversed(dropped)}
    return tuple(
        f"{kind}: {count} of the records' entries left out, such as {first[kind]}"
        for kind, count in writer.manifest.dropped_by_kind().items()
    )
