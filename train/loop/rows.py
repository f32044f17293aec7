"""What a recipe says about data -> rows to train and evaluate on, and what decodes their media."""

import os
from itertools import chain, islice

from data.batches.pixels import PixelLoader
from data.cache.frame_cache import FrameCache
from data.decoding.container import num_cores, share_of_cores
from data.decoding.isolated_decoder import IsolatedDecoder
from data.packing.dataset import RowDataset, shared_prefix_rows, single_sample_rows
from data.packing.mixture import Mixture
from data.packing.streaming import RowStream
from data.sources.conversation import read_conversations
from data.sources.source import file_sizes
from data.tokens.corpus import load_corpus
from data.tokens.encoding import encode_all
from train.recipe.recipe import Data


def load_rows(sources, data: Data, tokenizer, visual_tokens, seed: int, say) -> RowDataset | Mixture | None:
    """The rows of some data files; says what is in them and what will not be trained on."""
    if not sources:
        return None
    files = data.sources(sources)
    max_bad = data.max_bad_media if data.on_bad_media == "skip" else 0

    def load(files) -> RowDataset:
        corpus = load_corpus(files, tokenizer, visual_tokens, data.max_length, data.system_prompt, max_bad)
        rows = pack(corpus.samples, data, tokenizer, visual_tokens, seed)
        say(f"{', '.join(map(str, files))}: {len(corpus.samples)} conversations in {len(rows)} rows")
        for notice in corpus.notices(data.max_length):
            say(f"left out: {notice}")
        return rows

    weights = [source.weight for source in sources]
    if set(weights) == {1}:
        return load(files)
    mixture = Mixture([load([file]) for file in files], weights, seed)
    say(f"an epoch: {' + '.join(map(str, mixture.num_rows))} rows")
    return mixture


def stream_rows(sources, data: Data, tokenizer, visual_tokens, seed: int, say) -> RowStream:
    """The rows of some data files, read while training runs. The first conversation is read now, so that what is wrong
    with all of them is said before a model is loaded."""
    sources = data.sources(sources, in_place=True)
    rows = RowStream(
        [file for source in sources for file in file_sizes(source)],
        read=lambda: chain.from_iterable(map(read_conversations, sources)),
        encode=lambda several: encode_all(several, tokenizer, visual_tokens, data.max_length, data.system_prompt),
        pack=lambda samples, seed: pack(samples, data, tokenizer, visual_tokens, seed),
        window=data.stream_window,
        max_length=data.max_length,
        seed=seed,
        say=say,
    )
    next(rows.encode(islice(rows.read(), 1)), None)
    names = ", ".join(map(str, sources))
    say(f"{names}: read while training, {data.stream_window} conversations at a time")
    return rows


def pack(samples, data: Data, tokenizer, visual_tokens, seed: int) -> RowDataset:
    if data.packing == "none":
        return single_sample_rows(samples, visual_tokens, seed)
    return shared_prefix_rows(
        samples, tokenizer, visual_tokens, data.max_questions_per_clip, data.max_tokens_per_row, seed
    )


def pixel_loader(data: Data, processor, num_workers: int) -> PixelLoader:
    """What decodes the media, each process with a decoder that is watched, or takes them from the recipe's cache.

    The threads of all decoders of this machine fit its cores; more than 8 gain nothing.
    """
    cache = data.frame_cache and FrameCache(data.frame_cache, processor, data.num_frames, data.frame_cache_gib)
    num_threads = share_of_cores(num_cores(), num_workers, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    decode = IsolatedDecoder(data.decode_seconds, num_threads=min(8, num_threads))
    return PixelLoader(processor, data.num_frames, cache, decode)
