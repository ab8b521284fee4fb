"""Word and character errors of one transcript.

Aim: the counts behind WER and CER. Both rates are lower-is-better fractions, can exceed 1, and are
the sum of errors over the sum of reference units of the whole corpus (never a mean of utterance
rates); `probe.measures.counts` does the sum.

Conventions: an error is a substitution, deletion or insertion of the cheapest alignment
(Levenshtein), counted by jiwer. White space of any kind and length separates words, and is one
space between characters; leading and trailing white space is dropped. Nothing else is normalised:
case and punctuation count, so put both transcripts in the task's alphabet first.

Empty cases: an empty reference has 0 units, and every unit of the hypothesis is an error; two empty
transcripts are (0, 0).

Different from jiwer (4.x): its default transforms keep a lone tab, newline or other white space
inside a word, and keep repeated spaces as characters; on transcripts separated by single spaces the
counts are the same. ``jiwer.wer`` of references that are all empty is the number of insertions,
where ours has no value.

Different from SUPERB: none for words (also sum over sum, split on white space). Its "UER" counts
the word boundary after the last word of each transcript as one more character than our CER does. If
there are no reference words it reports 100 %.
"""

import jiwer


def word_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """Errors, and words of the reference.

    >>> word_errors("the cat sat", "the mat")
    (2, 3)
    """
    return _errors(jiwer.process_words(_spaced(reference), _spaced(hypothesis)))


def character_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """Errors, and characters of the reference, the spaces between words included.

    >>> character_errors("a cat", "a bat s")
    (3, 5)
    """
    return _errors(jiwer.process_characters(_spaced(reference), _spaced(hypothesis)))


def case_folded(text: str) -> str:
    """``text`` without case, its words separated by single spaces: the only normaliser here.

    >>> case_folded("Don't  STOP")
    "don't stop"
    """
    return _spaced(text.casefold())


def _errors(output: jiwer.WordOutput | jiwer.CharacterOutput) -> tuple[int, int]:
    changed = output.substitutions + output.deletions
    return changed + output.insertions, changed + output.hits


def _spaced(text: str) -> str:
    return " ".join(text.split())
