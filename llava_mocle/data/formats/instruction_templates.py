"""The templates that InstructBLIP is trained with (the paper's Table 10), and how a sample is written with one.

Two groups wrap the templates of another: VQAMC lists a question's options behind it, and OCRCAPS puts the text that
was read in an image before a request for a caption. Table 10 prints a VQA template as "Question A short answer to the
question is", without braces; Table 16 shows rows that it made, where the question stands in that place.
"""

from collections.abc import Sequence
from string import ascii_lowercase

QUESTION, ANSWER = "{Question}", "{Answer}"
# As many as LAVIS shows InstructBLIP when it asks about an image.
OCR_TOKENS = 30

_CAP = (
    "A short image caption:",
    "A short image description:",
    "A photo of",
    "An image that shows",
    "Write a short description for the image.",
    "Write a description for the photo.",
    "Provide a description of what is presented in the photo.",
    "Briefly describe the content of the image.",
    "Can you briefly explain what you see in the image?",
    "Could you use a few words to describe what you perceive in the photo?",
    "Please provide a short depiction of the picture.",
    "Using language, provide a short account of the image.",
    "Use a few words to illustrate what is happening in the picture.",
)
_VQA = (
    "{Question}",
    "Question: {Question}",
    "{Question} A short answer to the question is",
    "Q: {Question} A:",
    "Question: {Question} Short answer:",
    "Given the image, answer the following question with no more than three words. {Question}",
    "Based on the image, respond to this question with a short answer: {Question}. Answer:",
    "Use the provided image to answer the question: {Question} Provide your answer as short as possible:",
    'What is the answer to the following question? "{Question}"',
    'The question "{Question}" can be answered using the image. A short answer is',
)
_VQG = (
    "Given the image, generate a question whose answer is: {Answer}. Question:",
    "Based on the image, provide a question with the answer: {Answer}. Question:",
    'Given the visual representation, create a question for which the answer is "{Answer}".',
    "From the image provided, craft a question that leads to the reply: {Answer}. Question:",
    "Considering the picture, come up with a question where the answer is: {Answer}.",
    "Taking the image into account, generate an question that has the answer: {Answer}. Question:",
)
# Group -> its templates, in the order of Table 10. A template's number is its place here, from 0.
TEMPLATES = {"CAP": _CAP, "OCRCAPS": _CAP, "VQA": _VQA, "VQAMC": _VQA, "VQG": _VQG}


def caption_prompt(template: str, ocr_tokens: Sequence[str] | None = None) -> str:
    """A request for a caption; for OCRCAPS the first `OCR_TOKENS` tokens come first, also where none was found.

    >>> caption_prompt("A photo of", ["STOP", "ahead"])
    'OCR tokens: STOP, ahead. A photo of'
    """
    return template if ocr_tokens is None else f"OCR tokens: {', '.join(ocr_tokens[:OCR_TOKENS])}. {template}"


def question_prompt(template: str, question: str, options: Sequence[str] = ()) -> str:
    """A question, for VQAMC with its options as Table 16 has them: a comma parts them from words that follow.

    >>> question_prompt("Q: {Question} A:", "which?", ["cat", "dog"])
    'Q: which? Options: (a) cat (b) dog, A:'
    """
    before, after = template.split(QUESTION)
    if options:
        listed = " ".join(f"({letter}) {option}" for letter, option in zip(ascii_lowercase, options, strict=False))
        question = f"{question} Options: {listed}{',' if after.startswith(' ') else ''}"
    return f"{before}{question}{after}"


def answer_prompt(template: str, answer: str) -> str:
    """A request for the question that has this answer.

    >>> answer_prompt('Create a question for which the answer is "{Answer}".', "yes")
    'Create a question for which the answer is "yes".'
    """
    before, after = template.split(ANSWER)
    return f"{before}{answer}{after}"
