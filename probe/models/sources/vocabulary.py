"""The texts of the symbols of a checkpoint's own CTC head, from its tokenizer's files."""

import json
from pathlib import Path

import transformers

from probe.errors import listed
from probe.foreign_files import foreign_content
from probe.models.sources import adapters
from probe.models.sources.preprocessor import first_line

VOCABULARY_FILE = "vocab.json"
TOKENIZER_FILES = (
    *(VOCABULARY_FILE, adapters.TOKENIZER_FILE),
    *("special_tokens_map.json", "added_tokens.json"),
)


def written_by(folder: Path, n_symbols: int, language: str, notes: list[str]) -> tuple[str, ...]:
    """Return the text of each symbol of a head; empty, with a note, if no vocabulary fits."""
    try:
        return _written(folder, n_symbols, language)
    except Exception as error:  # missing, damaged and foreign tokenizers raise many kinds
        reason = first_line(error)
        notes.append(f"its CTC head has no vocabulary that fits and cannot be used: {reason}")
        return ()


def _written(folder: Path, n_symbols: int, language: str) -> tuple[str, ...]:
    if not (folder / VOCABULARY_FILE).is_file():
        raise ValueError(f"no {VOCABULARY_FILE}")
    settings = _vocabulary_of(folder / VOCABULARY_FILE, language)
    tokenizer = transformers.Wav2Vec2CTCTokenizer.from_pretrained(
        folder, trust_remote_code=False, **settings
    )
    tokens = {
        number: token
        for token, number in tokenizer.get_vocab().items()
        if number in range(n_symbols)
    }
    if len(tokens) != n_symbols or tokenizer.vocab_size > n_symbols:
        raise ValueError(
            f"{tokenizer.vocab_size} tokens, {len(tokens)} of them for its {n_symbols} symbols"
        )
    if tokenizer.pad_token_id not in tokens:
        raise ValueError(
            f"none of its symbols is the blank {tokenizer.pad_token!r}; name pad_token in "
            f"{adapters.TOKENIZER_FILE}"
        )
    # The attribute word_delimiter_token is always "|", regardless of the folder (transformers
    # 5.23).
    special = tokenizer.special_tokens_map
    delimiter = str(special.get("word_delimiter_token", tokenizer.word_delimiter_token))
    silent = dict.fromkeys(tokenizer.all_special_tokens, "")
    silent |= {delimiter: " ", tokenizer.pad_token: ""}
    writes = tuple(silent.get(tokens[number], tokens[number]) for number in range(n_symbols))
    "".join(writes).encode()  # half a surrogate pair cannot be encoded
    return writes


def _vocabulary_of(file: Path, language: str) -> dict[str, str]:
    """Return a tokenizer's arguments for the language: empty unless its file holds vocabularies of
    several languages.

    Raises:
        ValueError: ``language`` is not among them, or the file is not a vocabulary.
    """
    if content := foreign_content(file):
        raise ValueError(f"{file.name} is {content}".rstrip("."))
    vocabulary = json.loads(file.read_text(encoding="utf-8"))
    if not vocabulary or not all(isinstance(item, dict) for item in vocabulary.values()):
        return {}
    if language not in vocabulary:
        reason = f"target_lang is {language!r}, which is none of them"
        reason = reason if language else "no target_lang says which"
        raise ValueError(
            f"{file.name} has vocabularies of {len(vocabulary)} languages "
            f"({listed(sorted(vocabulary))}), and {reason}; set target_lang in "
            f"{adapters.TOKENIZER_FILE}"
        )
    return {"target_lang": language}
