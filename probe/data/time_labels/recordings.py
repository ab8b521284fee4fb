"""The recordings of a corpus by the names that files of labels give them."""

import os
from collections import defaultdict
from pathlib import Path

from probe.data.corpus import Corpus, Utterance
from probe.errors import ProbeError, listed


class Recordings:
    """The audio files and utterances of a corpus by their names.

    A name is a key, a path relative to the manifest or to the file of labels, either without its
    ending, or the bare name of a file, if no other file has it.
    """

    def __init__(self, corpus: Corpus, folder: Path) -> None:
        """``folder``: that of the file of labels."""
        self._folders = (folder, corpus.folder)
        self._utterances = {item.key: item for item in corpus.utterances}
        self._files: dict[str, Path] = {}  # resolved path -> as the corpus has it
        self._stems: dict[str, set[Path]] = defaultdict(set)  # resolved path without ending
        self._names: dict[str, set[Path]] = defaultdict(set)  # bare, with and without ending
        for path in dict.fromkeys(item.path for item in corpus.utterances):
            resolved = os.fspath(path.resolve())
            self._files[resolved] = path
            self._stems[os.path.splitext(resolved)[0]].add(path)
            self._names[path.name].add(path)
            self._names[path.stem].add(path)
        self._cache: dict[str, Utterance | Path | None] = {}

    def knows(self, name: str) -> bool:
        """Whether a text is a key or the whole path of a recording."""
        return name in self._utterances or name in self._files

    def get(self, name: str) -> Utterance | Path | None:
        """The recording of a name, or the utterance where only that has it; None where there is
        none.

        Raises:
            ProbeError: two recordings have it.
        """
        if name not in self._cache:
            self._cache[name] = self._find(name)
        return self._cache[name]

    def _find(self, name: str) -> Utterance | Path | None:
        for key in (name, os.path.normpath(name)):
            if key in self._utterances:
                return self._utterances[key].path
        spellings = [os.fspath((folder / name).resolve()) for folder in self._folders]
        for path in spellings:
            if path in self._files:
                return self._files[path]
        candidates = [self._stems[path] for path in spellings if path in self._stems]
        candidates.append(self._names[name] if name in self._names else set())
        for paths in filter(None, candidates):
            if len(paths) > 1:
                raise ProbeError(
                    f"labels of {name!r}: {len(paths)} recordings have this name "
                    f"({listed(sorted(map(os.fspath, paths)), 3)}). Write the path as the manifest "
                    "does."
                )
            return next(iter(paths))
        return None
