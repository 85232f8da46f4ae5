"""Texts to pieces of words, as the reference implementation cuts them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import BertWordPieceTokenizer

from fedloom_client.data.wordpieces import WordPieces
from fedloom_edge.errors import DataError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "un", "##believ", "##able", "##a", "##b", "a", "b", "e",
         "é", "!", "$", "中", "i", "##i", "ß", "##ß"]  # fmt: skip
LENGTH = 12


@pytest.fixture(scope="module")
def theirs():
    tokenizer = BertWordPieceTokenizer({word: i for i, word in enumerate(WORDS)}, lowercase=True)
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    return tokenizer


def ours(*texts):
    pieces = WordPieces(LENGTH, lambda: WORDS)
    return pieces.apply(np.array(texts), pieces.merge([]))


@given(text=st.text(st.sampled_from("abAB ieÉé!$.中ßİ\u0301\t\n\u00a0\u200b\ufffd-'x"), max_size=30))
def test_any_text_is_cut_as_by_the_reference(theirs, text):
    assert ours(text)[0].tolist() == theirs.encode(text).ids


# Latin, Greek, Cyrillic, Chinese: where both sides' editions of Unicode agree.
CHARACTERS = st.characters(max_codepoint=0x52F, exclude_categories=["Cn"]) | st.characters(
    min_codepoint=0x4E00, max_codepoint=0x9FA5
)


@given(text=st.text(CHARACTERS, max_size=12))
def test_any_character_is_taken_as_by_the_reference(theirs, text):
    assert ours(text)[0].tolist() == theirs.encode(text).ids


def test_longest_pieces_from_the_left_marks_and_padding():
    assert ours("The UNBELIEVABLE!")[0].tolist() == [2, 4, 5, 6, 7, 14, 3, *[0] * 5]
    assert ours("")[0].tolist() == [2, 3, *[0] * 10]
    assert ours("a " * 50)[0].tolist() == [2, *[10] * 10, 3]
    assert ours("a" * 101)[0, :3].tolist() == [2, 1, 3]


def test_nothing_is_told_of_the_texts_and_a_vocabulary_without_marks_is_refused():
    pieces = WordPieces(4, lambda: ["a", "b"])
    assert pieces.summarise(None) == {}
    with pytest.raises(DataError, match=r"\[CLS\]"):
        pieces.apply(np.array(["a"]), pieces.merge([]))
