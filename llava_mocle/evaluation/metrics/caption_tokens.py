"""Cutting captions into words, close to how COCO's caption evaluation does.

Source: pycocoevalcap's tokenizer (github.com/tylin/coco-caption): Stanford's PTBTokenizer 3.4.1 with -lowerCase, then
punctuation removed. That one needs Java; these few rules agree with it on plain captions. Where they differ: rare
abbreviations, words such as 'n' and 'em, currency and fraction signs, and addresses.
"""

import re

_UNIFIED = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-"})
_TOKEN = re.compile(
    r"""
      (?:[a-z]\.)+(?!\w)  # u.s.  a.m.  b.
    | (?:mr|mrs|ms|dr|st|jr|sr|vs|etc|ave|mt|prof|dept|inc|ltd|co|al)\.  # abbreviations keep their period
    | no\.(?=\s\d)  # no. 5
    | \d{1,2}:\d{2}(?=[ap]m\b)  # 3:45 of 3:45pm
    | '\d0s\b  # '90s
    | [^\W_]+(?:(?:[-./&]|'(?=[^\W\d_])|(?<=\d)[,:](?=\d))[^\W_]+)*  # words, t-shirt, 3.5, 1,000, 10:30, black/white
    | \S
    """,
    re.VERBOSE,
)
_CLITIC = re.compile(r"(.+?)(n't|'(?:s|re|ve|ll|d|m))")
_JOINED = {
    "cannot": ["can", "not"],
    "gonna": ["gon", "na"],
    "wanna": ["wan", "na"],
    "gotta": ["got", "ta"],
    "gimme": ["gim", "me"],
    "lemme": ["lem", "me"],
}
# The list of marks there has capital -LRB- and -RRB-, which never match the lower-cased tokens: brackets stay.
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_DROPPED = frozenset("'\"`.?!,:;-…")


def caption_tokens(text: str) -> list[str]:
    """The words of a caption, in lower case, without punctuation.

    >>> caption_tokens("A man's T-shirt (red), isn't it?")
    ['a', 'man', "'s", 't-shirt', '-lrb-', 'red', '-rrb-', 'is', "n't", 'it']
    """
    tokens: list[str] = []
    for token in _TOKEN.findall(text.translate(_UNIFIED).lower()):
        clitic = _CLITIC.fullmatch(token)
        if token in _DROPPED:
            continue
        elif token in _JOINED:
            tokens.extend(_JOINED[token])
        elif clitic:
            tokens.extend(clitic.groups())
        else:
            tokens.append(_BRACKETS.get(token, token))
    return tokens
