"""The recordings of a corpus by the names that files of labels give them."""

import os
from collections import defaultdict
from pathlib import Path

from probe.data.corpus import Corpus, Utterance
from probe.errors import ProbeError, listed

Recording = tuple[Path, str]  # an audio file, and its name within an archive if that is one


def recording_of(utterance: Utterance) -> Recording:
    """The recording that an utterance is, or is an excerpt of."""
    return utterance.path, utterance.excerpt.member


def is_whole(utterance: Utterance) -> bool:
    """Whether an utterance lasts as long as its recording."""
    return not utterance.excerpt.start_s and utterance.excerpt.end_s is None


def name_of(recording: Recording, corpus: Corpus) -> str:
    """The name within its archive, or the path relative to the corpus."""
    path, member = recording
    return member or os.path.relpath(path, corpus.folder)


class Recordings:
    """The recordings and utterances of a corpus by their names.

    A name is a key, a path relative to the manifest or to the file of labels, either without its
    ending, or the bare name of a file, if no other file has it.
    """

    def __init__(self, corpus: Corpus, folder: Path) -> None:
        """``folder``: that of the file of labels."""
        self._folders = (folder, corpus.folder)
        self._utterances = {item.key: item for item in corpus.utterances}
        self._files: dict[str, Recording] = {}  # resolved path -> recording
        self._others: dict[str, set[Recording]] = defaultdict(set)  # by their shorter names
        for recording in dict.fromkeys(map(recording_of, corpus.utterances)):
            path, member = recording
            full = Path(member) if member else path.resolve()
            self._files[os.fspath(full)] = recording
            for name in (os.fspath(full.with_suffix("")), full.name, full.stem):
                self._others[name].add(recording)
        self._cache: dict[str, Utterance | Recording | None] = {}

    def knows(self, name: str) -> bool:
        """Whether a text is a key or the whole path of a recording."""
        return name in self._utterances or name in self._files

    def get(self, name: str) -> Utterance | Recording | None:
        """The recording of a name, or the excerpt that has it; None where there is none.

        Raises:
            ProbeError: two recordings have the name.
        """
        if name not in self._cache:
            self._cache[name] = self._find(name)
        return self._cache[name]

    def _find(self, name: str) -> Utterance | Recording | None:
        utterances = [
            self._utterances[key]
            for key in (name, os.path.normpath(name))
            if key in self._utterances
        ]
        for utterance in filter(is_whole, utterances):
            return recording_of(utterance)
        spellings = [os.fspath((folder / name).resolve()) for folder in self._folders]
        for path in (name, *spellings):
            if path in self._files:
                return self._files[path]
        if utterances:
            return utterances[0]
        for spelling in (*spellings, name):
            recordings = sorted(self._others.get(spelling, ()))
            if len(recordings) > 1:
                names = [member or os.fspath(path) for path, member in recordings]
                raise ProbeError(
                    f"labels of {name!r}: {len(names)} recordings have this name "
                    f"({listed(names, 3)}). Write the path as the manifest does."
                )
            if recordings:
                return recordings[0]
        return None
