"""How LAVIS prepares questions and captions before InstructBLIP sees them.

The rules are those of its processors `blip_question` and `blip_caption`, stated here and written anew. The samples of
the paper's Table 16 have them applied: their questions are in lower case, and the templates around them are not.
"""

_MARKS = '.!"()*#:;~'
_REMOVED = str.maketrans("", "", _MARKS)
_BLANKED = str.maketrans(_MARKS, " " * len(_MARKS))
_WORDS = 50


def question_text(question: str) -> str:
    """In lower case, without the marks `.!"()*#:;~`, at most 50 words.

    >>> question_text('What is "U.S."?')
    'what is us?'
    """
    return _first_words(question.lower().translate(_REMOVED))


def caption_text(caption: str) -> str:
    """In lower case, a space for each of the marks `.!"()*#:;~`, at most 50 words; empty if nothing is left.

    >>> caption_text("A cat (black)sits.")
    'a cat black sits'
    """
    return _first_words(caption.lower().translate(_BLANKED))


def _first_words(text: str) -> str:
    return " ".join(text.split()[:_WORDS])
