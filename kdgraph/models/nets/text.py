"""Small networks for text: a causal transformer, and a recurrent labeller at the end of this file.

The transformer reads tokens and predicts the next one at each place. The layout is that of GPT-2
(Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"): norm first in each
block, learned positions, a last norm. Two things differ: the activation is ReLU, which is quicker
on a CPU, and the head has weights of its own. It reads ``token, position, dropout, blocks, norm,
head``: tap ``blocks`` (or ``blocks.0``, ...) or ``norm`` for features [B, L, D], and ``output`` for
the logits [B, L, K].

Shapes: B batch, L tokens, D width, K vocabulary, or classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Positions(nn.Module):
    """Adds a learned vector for each place to [B, L, D].

    Raises:
        ValueError: when there are more tokens than places.
    """

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(length, width))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] > len(self.weight):
            raise ValueError(
                f"{x.shape[1]} tokens, but the model was built with `length: {len(self.weight)}`"
            )
        return x + self.weight[: x.shape[1]]


class CausalAttention(nn.Module):
    """Each place attends to itself and those before it (Vaswani et al. 2017, 1706.03762)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        B, L, D = x.shape
        q, k, v = self.qkv(x).view(B, L, 3, self.heads, D // self.heads).unbind(2)
        mixed = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=True,
        )
        return self.out(mixed.transpose(1, 2).reshape(B, L, D))  # type: ignore[no-any-return]


class Block(nn.Module):
    """norm, attention, plus what came in; norm, two layers, plus what came in."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = CausalAttention(width, heads, dropout)
        self.dropout1 = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width)
        )
        self.dropout2 = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout1(self.attention(self.norm1(x)))
        return x + self.dropout2(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
    if isinstance(module, Positions):
        nn.init.normal_(module.weight, std=0.02)


class TextTransformer(nn.Module):
    """A decoder-only transformer.

    Args:
        vocabulary: Number of tokens there are.
        width: Size of the vector at each place.
        depth: Number of blocks.
        heads: Number of attention heads; they share ``width`` equally.
        length: The most tokens it can read.
        dropout: Probability, in attention and behind each half of a block.

    Raises:
        ValueError: when ``width`` cannot be shared by ``heads``.
    """

    def __init__(
        self,
        *,
        vocabulary: int = 256,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        length: int = 128,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} cannot be shared by {heads} heads")
        self.token = nn.Embedding(vocabulary, width)
        self.position = Positions(length, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(width, heads, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)
        self.apply(_initialise)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [B, L, vocabulary] of tokens [B, L], integers from 0."""
        x = self.dropout(self.position(self.token(tokens)))
        return self.head(self.norm(self.blocks(x)))  # type: ignore[no-any-return]


class TextLSTM(nn.Module):
    """A recurrent labeller: it reads a text both ways and gives each place a class.

    Embedding, LSTM (Hochreiter, Schmidhuber 1997, 10.1162/neco.1997.9.8.1735) both ways, head.
    Unlike the transformer it predicts no next token: what it says of a place depends on the tokens
    alone, and on all of them. Tap ``output`` for the logits [B, L, K]; the recurrent layer itself
    hands on a pair, of which ``rnn[0]`` is the features [B, L, 2 D].

    Args:
        vocabulary: Number of tokens there are.
        classes: Number of classes, K.
        width: Size of the state in each direction, D.
        depth: Number of recurrent layers.
        embedding: Size of the vector of a token.
        dropout: Probability, on the vectors of tokens and on what the head reads.
    """

    def __init__(
        self,
        *,
        vocabulary: int = 256,
        classes: int = 8,
        width: int = 32,
        depth: int = 1,
        embedding: int = 16,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, embedding)
        self.dropout = nn.Dropout(dropout)
        self.rnn = nn.LSTM(embedding, width, depth, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [B, L, classes] of tokens [B, L], integers from 0."""
        states, _ = self.rnn(self.dropout(self.token(tokens)))
        return self.head(self.dropout(states))  # type: ignore[no-any-return]
