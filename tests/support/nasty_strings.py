"""Names, instructions and paths from outside that have broken a page, a figure, a table or a line of JSON."""

from __future__ import annotations

NASTY = {
    "zero byte": "a\x00b",
    "control": "a\x01\x08\x1b[31mb\x7f",
    "c1 control": "a\x85\x9fb",
    "line separator": "one\u2028two\u2029three",
    "line feeds": "one\ntwo\r\nthree\x0bfour\x0cfive\x1csix",
    "markup": "<script>alert('x')</script>&amp;\"'--><!-- ]]>",
    "no character": "a\ufffe\uffffb\ufdd0",
    "right to left": "abc\u202egnp.exe\u2066",
    "table": "a|b||c`d`*e*_f_[g](h)\\|",
    "json": '{"a": "b\\u0000"}\\',
    "format": "%s {0} {{ x }} {% raw %} $\\frac{1}{2}$",
    "long": "word " * 2000,
    "other scripts": "\u6f2b\u753b \u0645\u0631\u062d\u0628\u0627 \U0001f34c e\u0301",
    "underscore": "_name",
    "blanks": "  \u00a0\u3000\u200b ",
}
