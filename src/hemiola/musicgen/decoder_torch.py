"""MusicGen's decoder in PyTorch, under Hugging Face's names: tokens and text in, logits for the next tokens out.

This file is the whole sequence at once, as training wants it; step by step decoding stands in session_torch.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hemiola.musicgen import chroma
from hemiola.musicgen.config import DecoderConfig, MelodyConfig
from hemiola.musicgen.positions import sinusoids


class Attention(nn.Module):
    """Multi-head attention without biases, of a sequence over itself or over the text."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.out_proj = nn.Linear(width, width, bias=False)

    def split(self, hidden: Tensor) -> Tensor:
        """Hidden [B, S, width] -> one row a head, [B, heads, S, width / heads]."""
        return hidden.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, hidden: Tensor, source: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Hidden [B, S, d] asks source [B, L, d] -> [B, S, d]; causal unless `allowed` [B, 1, 1, L] is given."""
        q, k, v = self.split(self.q_proj(hidden)), self.split(self.k_proj(source)), self.split(self.v_proj(source))
        mixed = attend(q, k, v, allowed)
        return self.out_proj(mixed.swapaxes(1, 2).flatten(2))


class Layer(nn.Module):
    """Self-attention, attention to the text, feed-forward: each after a norm, each added to what came in.

    A melody model has the text before the music, where self-attention sees it, and no attention of its own for it.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.self_attn = Attention(width, config.num_attention_heads)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.reads_text = config.melody is None
        if self.reads_text:
            self.encoder_attn = Attention(width, config.num_attention_heads)
            self.encoder_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, config.ffn_dim, bias=False)
        self.fc2 = nn.Linear(config.ffn_dim, width, bias=False)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, hidden: Tensor, text: Tensor, allowed: Tensor | None) -> Tensor:
        """Hidden [B, S, d], projected text [B, L, d], allowed [B, 1, 1, L] -> [B, S, d]."""
        asking = self.self_attn_layer_norm(hidden)
        hidden = hidden + self.self_attn(asking, asking)
        if self.reads_text:
            hidden = hidden + self.encoder_attn(self.encoder_attn_layer_norm(hidden), text, allowed)
        return hidden + self.fc2(F.gelu(self.fc1(self.final_layer_norm(hidden))))


class Stack(nn.Module):
    """Embeddings of all codebooks, the layers, the last norm."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        tables = [nn.Embedding(config.vocab_size + 1, config.hidden_size) for _ in range(config.num_codebooks)]
        self.embed_tokens = nn.ModuleList(tables)
        self.layers = nn.ModuleList([Layer(config) for _ in range(config.num_hidden_layers)])
        self.layer_norm = nn.LayerNorm(config.hidden_size)

    def forward(self, tokens: Tensor, text: Tensor, allowed: Tensor | None) -> Tensor:
        """Tokens [B, K, S], projected text [B, L, d], allowed [B, 1, 1, L] -> hidden [B, S, d].

        Without `allowed` the rows of `text` come before the music, and take the first positions.
        """
        hidden = torch.stack([table(tokens[:, k]) for k, table in enumerate(self.embed_tokens)]).sum(0)
        hidden = hidden if allowed is not None else torch.cat([text, hidden], dim=1)
        hidden = hidden + torch.tensor(sinusoids(*hidden.shape[1:])).to(hidden)
        for layer in self.layers:
            hidden = layer(hidden, text, allowed)
        return self.layer_norm(hidden)[:, -tokens.shape[2] :]


class Decoder(nn.Module):
    """The language model over codebooks; `enc_to_dec_proj` brings text states to its width and is kept with it."""

    def __init__(self, config: DecoderConfig, text_width: int) -> None:
        super().__init__()
        self.config = config
        self.model = nn.ModuleDict({"decoder": Stack(config)})
        heads = [nn.Linear(config.hidden_size, config.vocab_size, bias=False) for _ in range(config.num_codebooks)]
        self.lm_heads = nn.ModuleList(heads)
        if text_width != config.hidden_size:
            self.enc_to_dec_proj = nn.Linear(text_width, config.hidden_size)
        if config.melody is not None and config.melody.num_chroma != config.hidden_size:
            self.audio_enc_to_dec_proj = nn.Linear(config.melody.num_chroma, config.hidden_size)
        self.apply(self._initialise)

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.initializer_factor)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def project(self, text: Tensor, mask: Tensor) -> Tensor:
        """Text states [B, L, text_width] and mask [B, L] -> [B, L, d], zero where the mask is 0.

        A row whose mask is all 0 is the null condition of classifier-free guidance: zeros after the projection.
        """
        projected = self.enc_to_dec_proj(text) if hasattr(self, "enc_to_dec_proj") else text
        return projected * mask[..., None].to(projected.dtype)

    def project_melody(self, melody: Tensor | None, rows: int) -> Tensor:
        """Melody [B, chroma_length, num_chroma], or `rows` times none -> [B, chroma_length, d]."""
        if melody is None:
            null = torch.tensor(chroma.null(self.config.melody or MelodyConfig()))
            melody = null.to(next(self.parameters())).expand(rows, -1, -1)
        return self.audio_enc_to_dec_proj(melody) if hasattr(self, "audio_enc_to_dec_proj") else melody

    def forward(self, tokens: Tensor, text: Tensor, text_mask: Tensor, melody: Tensor | None = None) -> Tensor:
        """All steps at once, differentiable and causal.

        Args:
            tokens: int64 [B, K, S], positions 0 ... S - 1 of a delay pattern, position 0 all special.
            text: [B, L, text_width], the text encoder's states before the projection; L >= 1.
            text_mask: [B, L], 0 where padded; all 0 for a row trained without its text.
            melody: [B, chroma_length, num_chroma] for a model that has one; None is no tune.

        Returns:
            logits [B, K, S, vocab_size]; those at s are for position s + 1 of the pattern.
        """
        mask = text_mask.bool()
        rows, allowed = self.project(text, mask), None
        if self.config.melody is not None:
            rows = torch.cat([self.project_melody(melody, len(tokens)), rows], dim=1)
        else:
            # A row with no text sees one key of zeros: its attention is then exactly 0, where an empty softmax is NaN.
            empty = ~mask.any(-1, keepdim=True)
            first = torch.arange(mask.shape[1], device=mask.device) == 0
            allowed = (mask | (empty & first))[:, None, None, :]
        hidden = self.model["decoder"](tokens, rows, allowed)
        return torch.stack([head(hidden) for head in self.lm_heads], dim=1)


def attend(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
    """Queries [B, heads, S, n] over keys and values [B, heads, L, n] -> [B, heads, S, n]; causal without `allowed`.

    On a CPU the gradient of torch's fused kernel takes half of a training step's time: two products do it in less.
    """
    if q.device.type != "cpu" or not q.requires_grad:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, is_causal=allowed is None)
    seen = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril() if allowed is None else allowed
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return scores.masked_fill(~seen, -torch.inf).softmax(-1).to(v.dtype) @ v
