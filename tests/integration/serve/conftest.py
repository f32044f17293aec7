"""A server of the tiny model, and what the model says without it."""

import openai
import pytest

from data.decoding.isolated_decoder import IsolatedDecoder
from tests.endpoints import MIB, NUM_TOKENS, Running, data_url
from train.answering.generation import answer
from train.model.build import build_config, build_model
from train.results.loading import greedy
from train.serving.opening import key_of
from train.talking.talker import Talker


@pytest.fixture(scope="module")
def model(processor):
    config = build_config("tiny", processor.tokenizer)
    config.text_config.num_hidden_layers = 2  # those of the folder that is served
    model = build_model(config).eval()
    model.generation_config = greedy(processor.tokenizer)
    return model


@pytest.fixture(scope="module")
def decoder():
    decoder = IsolatedDecoder(60, is_patient=False)
    yield decoder
    decoder.end()


@pytest.fixture(scope="module")
def talker(model, processor, decoder):
    return Talker(model, processor, num_frames=8, decode=decoder, key=key_of, max_bytes=4 * MIB)


@pytest.fixture(scope="module")
def server(talker, tmp_path_factory):
    with Running(talker, tmp_path_factory.mktemp("files")) as running:
        yield running


@pytest.fixture
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def expect(model, processor):
    """Asks `generate` about some media."""

    def expected(words, *media, num_tokens=NUM_TOKENS):
        content = [*({"type": item.kind} for item in media), {"type": "text", "text": words}]
        prompt = ([{"role": "user", "content": content}], media)
        (said,) = answer(model, processor, [prompt], num_frames=8, max_new_tokens=num_tokens)
        return said

    return expected


@pytest.fixture(scope="module")
def urls(media_folder):
    return data_url(media_folder / "clip0.mp4"), data_url(media_folder / "picture0.png", "image/png")
