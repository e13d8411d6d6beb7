"""Verdicts, orders and groups come from typed values: no code looks for words in a sentence of ours."""

from __future__ import annotations

import ast
import re
from pathlib import Path

CONFORMANCE = Path(__file__).parent.parent.parent / "conformance"
_TESTS_OF_TEXT = {"startswith", "endswith", "find", "index", "partition", "rpartition"}
_SENTENCE = re.compile(r"[A-Za-z][\w'-]*[ ,]+(\w|$)")  # a word, and more of them or room for more


def sentences_tested_in(source: str) -> list[str]:
    """Return the literal sentences, or beginnings of one, that a source file looks for in a text."""
    literals: list[ast.AST] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            literals += (node.left, *node.comparators)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            literals += node.args if node.func.attr in _TESTS_OF_TEXT else ()
    return [
        part.value
        for literal in literals
        for part in ast.walk(literal)
        if isinstance(part, ast.Constant)
        and isinstance(part.value, str)
        and _SENTENCE.match(part.value)
    ]


def test_what_a_sentence_begins_with_is_found() -> None:
    assert sentences_tested_in("trouble.startswith(('building ', 'x'))") == ["building "]
    assert sentences_tested_in("if words == 'no answer': pass") == ["no answer"]
    assert sentences_tested_in("name.startswith('VLLM_'); a.partition(', ')") == []


def test_no_code_of_the_matrix_looks_for_words_in_a_sentence() -> None:
    found = {
        f"{file.relative_to(CONFORMANCE)}: {text!r}"
        for file in sorted(CONFORMANCE.rglob("*.py"))
        for text in sentences_tested_in(file.read_text("utf-8"))
    }
    assert found == set()
