import pytest

from llava_mocle.evaluation.metrics.caption_tokens import caption_tokens

# Recorded from pycocoevalcap 1.2's PTBTokenizer (Stanford CoreNLP 3.4.1).
RECORDED = [
    ("A man is riding a bike.", "a man is riding a bike"),
    ("A man isn't riding a bike, he's walking.", "a man is n't riding a bike he 's walking"),
    ("Two dogs (one brown) play with a ball.", "two dogs -lrb- one brown -rrb- play with a ball"),
    ('A sign that says "STOP" on the corner.', "a sign that says stop on the corner"),
    ("The dog's ball and the dogs' owner.", "the dog 's ball and the dogs owner"),
    (
        "They're going to eat; she'll cook and I've paid, he'd gone, I'm here.",
        "they 're going to eat she 'll cook and i 've paid he 'd gone i 'm here",
    ),
    ("A T-shirt and an x-ray of a 3-year-old.", "a t-shirt and an x-ray of a 3-year-old"),
    ("It costs $3.50 or 1,000 dollars and 50% off.", "it costs $ 3.50 or 1,000 dollars and 50 % off"),
    ("A black/white photo of a cat and/or dog", "a black/white photo of a cat and/or dog"),
    ("Mr. Smith and Dr. Jones in the U.S. at 10:30 a.m.", "mr. smith and dr. jones in the u.s. at 10:30 a.m."),
    ("I cannot go, I'm gonna wanna gotta leave.", "i can not go i 'm gon na wan na got ta leave"),
    ("A man -- holding a cup -- smiles...", "a man holding a cup smiles"),
    ("A man… smiles – or — not", "a man smiles or not"),
    ("“Curly quotes” and ‘single’ ones, the dog’s toy", "curly quotes and single ones the dog 's toy"),
    ("A cat & a dog #1 @ home * star", "a cat & a dog # 1 @ home * star"),
    ('A "quoted" word. Another sentence! Really? Yes.', "a quoted word another sentence really yes"),
    ("A man in a no. 5 jersey vs. another, etc.", "a man in a no. 5 jersey vs. another etc."),
    ("A man's, woman's & children's.", "a man 's woman 's & children 's"),
    ("can't won't don't shan't ain't", "ca n't wo n't do n't sha n't ai n't"),
    ("St. Louis on Main St.", "st. louis on main st."),
    ("two-wheeled , spaced . punctuation !", "two-wheeled spaced punctuation"),
    ("A child is playing with a toy.A dog watches.", "a child is playing with a toy.a dog watches"),
    ("5pm 7-up 1/2 cup 10-12 people 3:45pm", "5pm 7-up 1/2 cup 10-12 people 3:45 pm"),
    ("a hot-dog, fries,and a coke", "a hot-dog fries and a coke"),
    ("the 1990's and 90's", "the 1990 's and 90 's"),
    ("O'Brien's McDonald's", "o'brien 's mcdonald 's"),
    ("A child holds the letter b.", "a child holds the letter b."),
    ("Vitamin C. and plan B. are here", "vitamin c. and plan b. are here"),
    ("A plane -- two -- three --- four ---- done", "a plane two three four done"),
    ("A team of horses...pulling a cart", "a team of horses pulling a cart"),
    ("A woman w/ a hat", "a woman w / a hat"),
    ("A boy's t-shirt reads \"I'm #1!\"", "a boy 's t-shirt reads i 'm # 1"),
    ("An arrow -> here", "an arrow > here"),
    ("No.", "no"),
    ("a no parking sign", "a no parking sign"),
    ("a person in a u.s.a. shirt.", "a person in a u.s.a. shirt"),
    ("caf\u00e9 na\u00efve \u6771\u4eac 25\u00b0C", "caf\u00e9 na\u00efve \u6771\u4eac 25 \u00b0 c"),
]


@pytest.mark.parametrize(("text", "expected"), RECORDED)
def test_as_the_ptb_tokenizer_cuts(text, expected):
    assert " ".join(caption_tokens(text)) == expected


@pytest.mark.parametrize("text", ["", "  ", "...", "?!", "' \" `"])
def test_nothing_but_punctuation(text):
    assert caption_tokens(text) == []
