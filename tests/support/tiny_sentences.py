"""A tiny random sentence encoder of BERT's kind, in a folder as transformers reads it."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import BertConfig, BertModel

from support.tiny_editors import WORDS, word_tokenizer


def sentence_encoder_folder(folder: Path) -> Path:
    """The folder, made here."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(folder)
    word_tokenizer(128).save_pretrained(folder)
    return folder
