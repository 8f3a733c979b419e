import pytest
import torch
from PIL import Image

from llava_mocle.data.images import load_image, process_image
from llava_mocle.errors import CheckpointError, ConfigError, DataError, RoutingError
from llava_mocle.evaluation.answering.order import batches
from llava_mocle.evaluation.answering.question import Question, request_of
from llava_mocle.inference import Predictor, Request
from tests.inference import tiny

QUESTION = tiny.QUESTIONS[0]


@pytest.fixture
def mixed(images) -> list[Request]:
    """Text-only, one image and two images; three clusters; short and long."""
    requests = [
        Request(question, images[number] if number % 3 else None) for number, question in enumerate(tiny.QUESTIONS)
    ]
    requests.append(Request("Compare <image> with <image> please. " + "And again. " * 6, images[:2]))
    requests.append(Request("Why?", images[3]))
    return requests


@pytest.mark.parametrize("num_beams", [1, 3])
def test_batched_answers_equal_single_ones(predictor, mixed, num_beams):
    batched = predictor.predict_batch(mixed, max_new_tokens=10, num_beams=num_beams)
    single = [predictor.predict_batch([request], max_new_tokens=10, num_beams=num_beams)[0] for request in mixed]
    assert batched == single
    # The comparison means something only if the batch is really mixed.
    assert len({prediction.cluster_id for prediction in batched}) == 3
    assert len({prediction.text for prediction in batched}) >= 6
    assert len({prediction.num_tokens for prediction in batched}) >= 2


def test_answers_equal_a_plain_greedy_loop(predictor, mixed):
    """Reference: argmax of full forwards, without cache, padding or `generate`, on a prompt written out by hand."""
    tokenizer, image_id = predictor.tokenizer, predictor.tokenizer.convert_tokens_to_ids("<image>")
    request = mixed[1]
    system = (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions. USER: "
    )
    user = f"\n{request.prompt} ASSISTANT:"
    ids = [1, *tokenizer.encode(system, add_special_tokens=False), *[image_id] * 4]
    ids += tokenizer.encode(user, add_special_tokens=False)
    pixels = process_image(load_image(request.image_list[0]), predictor.image_processor)[None]
    cluster = int(predictor.cluster_model.assign([request.prompt])[0][0])
    new: list[int] = []
    with torch.no_grad():
        while len(new) < 10 and 2 not in new:
            logits = predictor.model(
                input_ids=torch.tensor([ids + new]), pixel_values=pixels, cluster_ids=torch.tensor([cluster])
            ).logits
            new.append(int(logits[0, -1].argmax()))
    prediction = predictor.predict_batch(mixed, max_new_tokens=10)[1]
    new = new[: new.index(2)] if 2 in new else new
    assert prediction.text == tokenizer.decode(new, skip_special_tokens=True).strip()
    assert prediction.num_tokens == len(new) > 2
    assert prediction.cluster_id == cluster


def test_image_and_cluster_both_matter(predictor, images):
    answers = {predictor.predict(image, QUESTION, max_new_tokens=8).text for image in images[:3]}
    assert len(answers) > 1
    by_cluster = [predictor.predict(images[0], QUESTION, max_new_tokens=8, cluster_id=c) for c in range(3)]
    assert len({prediction.text for prediction in by_cluster}) > 1
    assert [prediction.cluster_id for prediction in by_cluster] == [0, 1, 2]
    assert all(prediction.cluster_distance is None for prediction in by_cluster)
    own = predictor.predict(images[0], QUESTION, max_new_tokens=8)
    assert own.text == by_cluster[own.cluster_id].text


def test_routing_text_is_the_cluster_models_rule(predictor, images):
    cluster_model = predictor.cluster_model
    ids, distances = cluster_model.assign(tiny.QUESTIONS)
    found = predictor.predict_batch([Request(f" <image>\n{q} ", images[0]) for q in tiny.QUESTIONS], max_new_tokens=1)
    assert [prediction.cluster_id for prediction in found] == ids.tolist()
    assert [prediction.cluster_distance for prediction in found] == pytest.approx(distances.tolist(), abs=2e-5)
    other = next(question for question, cluster in zip(tiny.QUESTIONS, ids, strict=True) if cluster != ids[0])
    moved = predictor.predict(None, QUESTION, route_text=other, max_new_tokens=4)
    assert moved.cluster_id == cluster_model.assign([other])[0][0] != ids[0]
    assert moved.text == predictor.predict(None, QUESTION, cluster_id=moved.cluster_id, max_new_tokens=4).text
    row = {"id": 1, "conversations": [{"from": "human", "value": "<image>\nWhy?"}], "route_text": "Elsewhere"}
    assert predictor.routing_text(row) == "Elsewhere"


def test_a_mark_in_the_prompt_and_a_picture_in_memory_change_nothing(predictor, images):
    expected = predictor.predict(images[0], QUESTION, max_new_tokens=6)
    assert predictor.predict(str(images[0]), f"<image>\n{QUESTION}", max_new_tokens=6) == expected
    with Image.open(images[0]) as picture:
        assert predictor.predict(picture.convert("RGBA"), QUESTION, max_new_tokens=6) == expected
    assert predictor.predict([images[0]], QUESTION, max_new_tokens=6) == expected


def test_sampling_follows_the_seed(predictor):
    def sample(seed):
        torch.manual_seed(seed)
        return predictor.predict(None, QUESTION, max_new_tokens=8, temperature=1.5, top_p=0.95).text

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(4)}) > 1


def test_base_and_stage1_have_no_clusters(base_dir, images, tmp_path):
    stage1_dir = tiny.write_stage1(tmp_path / "stage1", base_dir)
    answers = []
    for folder in (base_dir, stage1_dir):
        predictor = Predictor.from_pretrained(folder, device="cpu")
        prediction = predictor.predict(images[0], QUESTION, max_new_tokens=6)
        assert (prediction.cluster_id, prediction.cluster_distance) == (None, None)
        assert predictor.routing_text({"conversations": []}) is None
        answers.append(prediction.text)
        with pytest.raises(CheckpointError, match="no cluster model"):
            predictor.explain(QUESTION)
        with pytest.raises(RoutingError, match="no clusters"):
            predictor.predict(None, QUESTION, cluster_id=0)
    assert answers[0] != answers[1]


def test_a_template_whose_end_is_text_stops_there(base_dir, images):
    predictor = Predictor.from_pretrained(base_dir, device="cpu", template="plain")
    found = predictor.predict_batch([Request("", image) for image in images], max_new_tokens=24)
    assert all("\n" not in prediction.text for prediction in found)
    assert found == [predictor.predict(image, "", max_new_tokens=24) for image in images]


def test_dataset_router_needs_a_dataset(base_dir, encoder_dir, tmp_path):
    folder = tiny.write_checkpoint(tmp_path / "by_dataset", base_dir, encoder_dir, router="dataset")
    predictor = Predictor.from_pretrained(folder, device="cpu")
    named = [predictor.predict(None, QUESTION, dataset=name, max_new_tokens=8) for name in ("shapes", "scans")]
    assert [predictor.predict(None, QUESTION, dataset=index, max_new_tokens=8) for index in (0, 1)] == named
    assert named[0].text != named[1].text
    for dataset in (None, "other", 2):
        with pytest.raises(RoutingError, match="shapes, scans"):
            predictor.predict(None, QUESTION, dataset=dataset)


def test_plain_lora_needs_nothing(base_dir, encoder_dir, tmp_path):
    folder = tiny.write_checkpoint(tmp_path / "lora", base_dir, encoder_dir, router="none")
    predictor = Predictor.from_pretrained(folder, device="cpu")
    prediction = predictor.predict(None, QUESTION, max_new_tokens=8)
    assert prediction.cluster_id is None
    assert prediction.text != Predictor.from_pretrained(base_dir, device="cpu").predict(None, QUESTION).text


def test_explanation_agrees_with_the_gates(predictor):
    explanation = predictor.explain(QUESTION)
    assert explanation.cluster_id == predictor.predict(None, QUESTION, max_new_tokens=1).cluster_id
    gates = predictor.model.base_model.clean_gates()[explanation.cluster_id]
    assert explanation.mean_gates == pytest.approx(gates.mean(dim=0).tolist(), abs=1e-6)
    assert explanation.universal_weight == pytest.approx(float((1 - gates.max(dim=-1).values).mean()), abs=1e-6)
    assert sum(explanation.expert_share) == pytest.approx(1)
    assert explanation.num_sites == 4
    assert set(explanation.nearest_instructions) <= set(tiny.QUESTIONS)
    assert predictor.explain(QUESTION, cluster_id=2).cluster_id == 2


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        (Request("<image> <image> Why?", "{image}"), DataError, "2 <image> marks for 1 images"),
        (Request("<image> Why?"), DataError, "1 <image> marks for 0 images"),
        (Request("Why?", "missing.png"), DataError, "missing.png"),
        (Request("Why?", Image.new("RGB", (1, 20_000))), DataError, "1 x 20000 pixels"),
        (Request("word " * 600), DataError, "at most 512"),
        (Request("Why?", cluster_id=3), RoutingError, "clusters 0 to 2"),
        (Request("Why?", cluster_id=-1), RoutingError, "clusters 0 to 2"),
    ],
)
def test_mistakes_are_named(predictor, images, request_, error, message):
    image = str(images[0]) if request_.images == "{image}" else request_.images
    with pytest.raises(error, match=message):
        predictor.predict(image, request_.prompt, cluster_id=request_.cluster_id)


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 0},
        {"num_beams": 0},
        {"temperature": -1.0},
        {"top_p": 0.5},
        {"temperature": 1.0, "top_p": 2.0},
    ],
)
def test_settings_out_of_range_are_refused(predictor, options):
    with pytest.raises(ConfigError, match=list(options)[-1]):
        predictor.predict(None, QUESTION, **options)


def test_a_picture_of_pillow_that_cannot_be_decoded_is_named(predictor, images, tmp_path):
    cut = tmp_path / "cut.png"
    cut.write_bytes(images[0].read_bytes()[:60])
    with pytest.raises(DataError, match=r"cut\.png: can't be read as an image"):
        predictor.predict(Image.open(cut), QUESTION)
    with pytest.raises(DataError, match="the image in memory: can't be read as an image"):
        predictor.predict([3], QUESTION)


def test_no_requests_no_answers(predictor):
    assert predictor.predict_batch([]) == []


def test_the_order_of_the_questions_changes_no_answer(predictor, images) -> None:
    """Batches of one cluster and like lengths against the questions' own order, in float32."""
    questions = [
        Question(n, f"{tiny.QUESTIONS[n % 6]} {'Please. ' * (n * 5 % 7)}{n}", (images[n % 6],) if n % 3 else ())
        for n in range(30)
    ]
    requests = [request_of(question) for question in questions]
    in_order = [
        prediction
        for begin in range(0, 30, 4)
        for prediction in predictor.predict_batch(requests[begin : begin + 4], max_new_tokens=6)
    ]
    found = {}
    order = batches(predictor, questions, 4)
    for batch in order:
        found |= dict(zip(batch, predictor.predict_batch([requests[n] for n in batch], max_new_tokens=6), strict=True))
    assert sorted(found) == list(range(30))
    assert [found[n].text for n in range(30)] == [prediction.text for prediction in in_order]
    routes = predictor.routes(requests)
    assert routes == [prediction.cluster_id for prediction in in_order]
    full = sum(routes.count(cluster) // 4 for cluster in set(routes))
    assert sum(len({routes[n] for n in batch}) == 1 for batch in order[:full]) == full > 0
