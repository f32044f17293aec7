"""Tokenizers of the kinds that Video-LLaVA checkpoints come with, trained on the spot."""

import io

import sentencepiece
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaTokenizer, PreTrainedTokenizerFast

from data.video_llava import PLACEHOLDERS
from tests.tiny_data import WORDS
from train.model.build import train_tokenizer

SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


def train_sentencepiece() -> bytes:
    """Train SentencePiece as for LLaMA: BPE, byte fallback, a blank in front."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for line in WORDS.splitlines()] * 20),
        model_writer=written,
        model_type="bpe",
        vocab_size=360,
        byte_fallback=True,
        character_coverage=1.0,
        add_dummy_prefix=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return written.getvalue()


def sentencepiece_llama(folder, **settings) -> LlamaTokenizer:
    """Read a SentencePiece model with transformers' own class."""
    (folder / "tokenizer.model").write_bytes(train_sentencepiece())
    tokenizer = LlamaTokenizer.from_pretrained(folder, **SPECIAL, **settings)
    tokenizer.add_tokens(list(PLACEHOLDERS.values()), special_tokens=True)
    return tokenizer


def legacy_llama(folder) -> LlamaTokenizer:
    """Return what Video-LLaVA-7B-hf's tokenizer_config.json asks for: a blank behind each special token, too."""
    return sentencepiece_llama(folder, legacy=True)


def metaspace_bpe(folder) -> PreTrainedTokenizerFast:
    """Return what `legacy=False` makes of a LLaMA tokenizer: a blank goes in front of the text's first word alone."""
    tokenizer = llama_prepend(folder)
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([])
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return tokenizer


def byte_level_bpe(folder) -> PreTrainedTokenizerFast:
    """GPT-2's kind: no blank in front, bytes from the start."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=[*SPECIAL.values(), *PLACEHOLDERS.values()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)
    fast.add_tokens(list(PLACEHOLDERS.values()), special_tokens=True)
    return fast


def llama_prepend(folder) -> PreTrainedTokenizerFast:
    """Return a tokenizer as Video-LLaVA-7B-hf has it: a blank in front of every piece between special tokens."""
    return train_tokenizer([WORDS] * 3)


KINDS = [llama_prepend, sentencepiece_llama, legacy_llama, metaspace_bpe, byte_level_bpe]
