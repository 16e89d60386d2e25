"""GPT-2's shape as LMPlay's `gpt2ish` has it: the model that every other is compared with.

Pre-LayerNorm blocks of causal attention and a GELU perceptron four times as wide, learned positions, and a head of
its own (not tied to the embedding) with a bias. As in LMPlay, dropout acts on the embeddings and on what each
sub-layer adds, not on the attention weights, so that the fast attention kernels can be used.

Axes: B samples, T tokens read now, S tokens read so far, C width (`embed_dim`), H heads, D width of a head,
V vocabulary; P positions of samples that lie one behind the other, without padding.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from lmplay_tui.models.packed_attention import can_pack, packed_attention


class KeyValueCache:
    """Keys and values of what a model has read, so that each further token costs one position.

    `keys` and `values` hold one tensor a block, (B, H, context_len, D); `length` positions of them are filled.
    """

    def __init__(self, keys: list[Tensor], values: list[Tensor]) -> None:
        self.keys = keys
        self.values = values
        self.length = 0

    def extend(self, block: int, k_BHTD: Tensor, v_BHTD: Tensor) -> tuple[Tensor, Tensor]:
        """Add new positions to a block; all of its positions so far, (B, H, S, D). `length` moves with `advance`."""
        end = self.length + k_BHTD.shape[2]
        self.keys[block][:, :, self.length : end] = k_BHTD
        self.values[block][:, :, self.length : end] = v_BHTD
        return self.keys[block][:, :, :end], self.values[block][:, :, :end]

    def advance(self, num_tokens: int) -> None:
        """Count positions that every block has added."""
        self.length += num_tokens


class Attention(nn.Module):
    """Causal self-attention, https://arxiv.org/abs/1706.03762 section 3.2."""

    def __init__(self, *, embed_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)  # queries, keys and values in one product
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTC: Tensor, cache: KeyValueCache | None = None, block: int = 0) -> Tensor:
        B, T, C = x_BTC.shape
        q, k, v = self.qkv(x_BTC).view(B, T, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4).unbind(0)
        if cache is None:
            y_BHTD = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            k, v = cache.extend(block, k, v)
            S = k.shape[2]
            # `is_causal` lines up first with first; new tokens must line up with the last ones of the cache.
            mask_TS = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T) if 1 < T < S else None
            y_BHTD = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask_TS, is_causal=T == S)
        y_BTC = y_BHTD.transpose(1, 2).reshape(B, T, C)
        out: Tensor = self.dropout(self.proj(y_BTC))
        return out

    def packed(self, x_PC: Tensor, offsets: Tensor, longest: int) -> Tensor:
        """The same for samples one behind the other; `offsets`: where each begins, `longest`: what one may have."""
        P, C = x_PC.shape
        q, k, v = self.qkv(x_PC).view(P, 3, self.num_heads, C // self.num_heads).unbind(1)
        out: Tensor = self.dropout(self.proj(packed_attention(q, k, v, offsets, longest).view(P, C)))
        return out


class Perceptron(nn.Module):
    """Two layers with GELU between them, four times as wide inside."""

    def __init__(self, *, embed_dim: int, dropout: float) -> None:
        super().__init__()
        self.expand = nn.Linear(embed_dim, 4 * embed_dim)
        self.proj = nn.Linear(4 * embed_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTC: Tensor) -> Tensor:
        out: Tensor = self.dropout(self.proj(functional.gelu(self.expand(x_BTC))))
        return out


class Block(nn.Module):
    """Attention, then the perceptron; each reads a normalized copy of the stream and adds to the stream."""

    def __init__(self, *, embed_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.ln_attn = nn.LayerNorm(embed_dim)
        self.attn = Attention(embed_dim=embed_dim, num_heads=num_heads, dropout=dropout)
        self.ln_mlp = nn.LayerNorm(embed_dim)
        self.mlp = Perceptron(embed_dim=embed_dim, dropout=dropout)

    def forward(self, x_BTC: Tensor, cache: KeyValueCache | None = None, block: int = 0) -> Tensor:
        x_BTC = x_BTC + self.attn(self.ln_attn(x_BTC), cache, block)
        out: Tensor = x_BTC + self.mlp(self.ln_mlp(x_BTC))
        return out

    def packed(self, x_PC: Tensor, offsets: Tensor, longest: int) -> Tensor:
        """The same for samples one behind the other."""
        x_PC = x_PC + self.attn.packed(self.ln_attn(x_PC), offsets, longest)
        out: Tensor = x_PC + self.mlp(self.ln_mlp(x_PC))
        return out


class GPT2ish(nn.Module):
    """The whole model. Raises `ValueError` if the heads do not divide the width."""

    def __init__(
        self, *, vocab_size: int, context_len: int, num_blocks: int, embed_dim: int, num_heads: int,
        dropout: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} is not a multiple of num_heads {num_heads}")
        self.context_len = context_len
        self.num_heads = num_heads
        self.token_embed = nn.Embedding(vocab_size, embed_dim)
        self.position_embed = nn.Embedding(context_len, embed_dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(embed_dim=embed_dim, num_heads=num_heads, dropout=dropout) for _ in range(num_blocks)
        )
        self.ln_final = nn.LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, vocab_size)
        self._initialize()

    def _initialize(self) -> None:
        """Weights from N(0, 0.02), biases 0; what a sub-layer adds to the stream is scaled by 1/sqrt(2 x blocks).

        Radford et al. 2018 section 4.1 and 2019 section 2.3: the stream sums as many terms as there are sub-layers,
        and so keeps its size at the start however deep the model is.
        """
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                std = 0.02 / (2 * len(self.blocks)) ** 0.5 if name.endswith(".proj") else 0.02
                nn.init.normal_(module.weight, mean=0.0, std=std)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def hidden(self, ids_BT: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """The stream after the last norm, (B, T, C), for the head to turn into logits.

        `ids_BT`: int64, padded on the right only: attention looks to the left, so padding needs no mask.
        `cache`: holds what came before `ids_BT` and takes them in. Raises `ValueError` beyond the context.
        """
        start = 0 if cache is None else cache.length
        T = ids_BT.shape[1]
        if start + T > self.context_len:
            raise ValueError(f"{start + T} tokens do not fit a context of {self.context_len}")
        x_BTC = self.dropout(self.token_embed(ids_BT) + self.position_embed.weight[start : start + T])
        for index, block in enumerate(self.blocks):
            x_BTC = block(x_BTC, cache, index)
        if cache is not None:
            cache.advance(T)
        out: Tensor = self.ln_final(x_BTC)
        return out

    def can_pack(self, device: torch.device, dtype: torch.dtype) -> bool:
        """Whether `trunk` runs on `device` with queries, keys and values in `dtype`."""
        return can_pack(device, dtype, self.head.weight.shape[1] // self.num_heads)

    @torch.no_grad()
    def embed(self, ids_P: Tensor, positions_P: Tensor) -> Tensor:
        """What samples that lie one behind the other put into the stream, (P, C), without a graph behind it."""
        x_PC: Tensor = self.token_embed(ids_P) + self.position_embed(positions_P)
        return x_PC

    @torch.no_grad()
    def embed_backward(self, grad_PC: Tensor, ids_P: Tensor, positions_P: Tensor) -> None:
        """Add the gradient of what `embed` gave to the embeddings', row by row.

        Autograd would first make a matrix of the whole vocabulary for each mini-batch, nearly all of it zeros.
        """
        for weight, index_P in ((self.token_embed.weight, ids_P), (self.position_embed.weight, positions_P)):
            if weight.requires_grad:
                if weight.grad is None:
                    weight.grad = torch.zeros_like(weight)
                weight.grad.index_add_(0, index_P, grad_PC.to(weight.dtype))

    def trunk(self, x_PC: Tensor, offsets: Tensor) -> Tensor:
        """`hidden` for samples one behind the other, of what `embed` gave: (P, C). Where `can_pack` says so.

        `offsets`: (samples + 1), where each begins, and P; int64 on a processor, int32 on a GPU.
        """
        x_PC = self.dropout(x_PC)
        for block in self.blocks:
            x_PC = cast(Block, block).packed(x_PC, offsets, self.context_len)
        out: Tensor = self.ln_final(x_PC)
        return out

    def forward(self, ids_BT: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Logits of the token after each position, (B, T, V)."""
        logits_BTV: Tensor = self.head(self.hidden(ids_BT, cache))
        return logits_BTV

    def new_cache(self, batch_size: int) -> KeyValueCache:
        """An empty cache for `batch_size` texts, as long as the context."""
        weight = self.head.weight
        width = weight.shape[1] // self.num_heads

        def empty() -> list[Tensor]:
            return [weight.new_zeros(batch_size, self.num_heads, self.context_len, width) for _ in self.blocks]

        return KeyValueCache(empty(), empty())
