"""Stand-ins for transformers as Hugging Face and timm write them: small, but with their ways of saying sizes."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Inputs = Tensor | tuple[Tensor, ...] | dict[str, Tensor]


class DropPath(nn.Module):
    """Stochastic depth: whole samples are dropped, in training only."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(0.9)
        return x * keep / 0.9


class LayerScale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(0.5 * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int, act: Callable[[Tensor], Tensor] = F.gelu) -> None:
        super().__init__()
        self.fc1, self.fc2, self.act = nn.Linear(width, hidden), nn.Linear(hidden, width), act

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class TimmAttention(nn.Module):
    """One linear layer for queries, keys and values; normalised queries and keys; fused or written out."""

    def __init__(self, width: int = 8, heads: int = 2, *, fused: bool = True, qk_norm: bool = True) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.fused = heads, width // heads, fused
        self.scale = self.head_dim**-0.5
        self.qkv, self.proj = nn.Linear(width, width * 3), nn.Linear(width, width)
        self.q_norm = nn.LayerNorm(self.head_dim) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(self.head_dim) if qk_norm else nn.Identity()
        self.attn_drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        if self.fused:
            x = F.scaled_dot_product_attention(q, k, v, dropout_p=self.attn_drop.p if self.training else 0.0)
        else:
            x = self.attn_drop((q * self.scale @ k.transpose(-2, -1)).softmax(dim=-1)) @ v
        return self.proj(x.transpose(1, 2).reshape(B, N, C))


class ViT(nn.Module):
    """Patches, class token, positions, blocks with layer scale and stochastic depth."""

    def __init__(self, attention: Callable[[], nn.Module], width: int = 8) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.cls_token, self.pos_embed = nn.Parameter(torch.randn(1, 1, width)), nn.Parameter(torch.randn(1, 5, width))
        self.norm1, self.attn, self.ls1 = nn.LayerNorm(width), attention(), LayerScale(width)
        self.norm2, self.mlp, self.ls2 = nn.LayerNorm(width), Mlp(width, 16), LayerScale(width)
        self.drop_path, self.norm, self.head = DropPath(), nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1) + self.pos_embed
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x))))
        x = x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))
        return self.head(self.norm(x)[:, 0])


class EinsumAttention(nn.Module):
    """Heads by unflatten, products by einsum."""

    def __init__(self, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)) for layer in (self.q, self.k, self.v))
        scores = torch.einsum("bihd,bjhd->bhij", q, k) * 0.5
        return self.out(torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v).flatten(2))


class BertSelfAttention(nn.Module):
    """Head sizes are numbers of the module, written into every view."""

    def __init__(self, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.num_attention_heads, self.attention_head_size = heads, width // heads
        self.all_head_size = width
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.dense, self.norm, self.dropout = nn.Linear(width, width), nn.LayerNorm(width), nn.Dropout(0.1)

    def heads(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], -1, self.num_attention_heads, self.attention_head_size).permute(0, 2, 1, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.heads(self.query(x)), self.heads(self.key(x)), self.heads(self.value(x))
        scores = torch.matmul(q, k.transpose(-1, -2)) / self.attention_head_size**0.5 + mask
        context = torch.matmul(self.dropout(F.softmax(scores, dim=-1)), v).permute(0, 2, 1, 3).contiguous()
        context = context.view((*context.size()[:-2], self.all_head_size))
        return self.norm(self.dropout(self.dense(context)) + x)


class Bert(nn.Module):
    """Embeddings of words, positions and kinds; an additive mask; keyword inputs; a pooler."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, width, padding_idx=0), nn.Embedding(16, width)
        self.kinds, self.norm = nn.Embedding(2, width), nn.LayerNorm(width)
        self.register_buffer("position_ids", torch.arange(16).expand((1, -1)), persistent=False)
        self.attention = BertSelfAttention(width)
        self.intermediate, self.output, self.out_norm = nn.Linear(width, 16), nn.Linear(16, width), nn.LayerNorm(width)
        self.pooler, self.classifier = nn.Linear(width, width), nn.Linear(width, 3)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        places = self.places(self.position_ids[:, : input_ids.shape[1]])
        x = self.norm(self.words(input_ids) + self.kinds(token_type_ids) + places)
        mask = attention_mask[:, None, None, :].to(dtype=x.dtype)
        x = self.attention(x, (1.0 - mask) * torch.finfo(x.dtype).min)
        x = self.out_norm(self.output(F.gelu(self.intermediate(x))) + x)
        return {"logits": self.classifier(torch.tanh(self.pooler(x[:, 0]))), "last_hidden_state": x}


class Conv1D(nn.Module):
    """GPT-2's linear layer: the weight the other way round."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.nf = outputs
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs) / 3), nn.Parameter(torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], self.nf)


class Gpt(nn.Module):
    """Causal mask from a buffer, a split of one projection, and one table for input and output words."""

    def __init__(self, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.width, self.heads = width, heads
        self.wte, self.wpe = nn.Embedding(20, width), nn.Embedding(16, width)
        self.ln_1, self.c_attn, self.c_proj = nn.LayerNorm(width), Conv1D(width, 3 * width), Conv1D(width, width)
        self.ln_2, self.c_fc, self.c_out = nn.LayerNorm(width), Conv1D(width, 16), Conv1D(16, width)
        self.register_buffer("causal", torch.tril(torch.ones(16, 16, dtype=torch.bool)).view(1, 1, 16, 16), False)
        self.ln_f, self.lm_head = nn.LayerNorm(width), nn.Linear(width, 20, bias=False)
        self.lm_head.weight = self.wte.weight

    def attend(self, x: Tensor) -> Tensor:
        batch, steps, _ = x.shape
        q, k, v = (
            part.view(batch, steps, self.heads, self.width // self.heads).transpose(1, 2)
            for part in self.c_attn(x).split(self.width, dim=2)
        )
        scores = q @ k.transpose(-1, -2) / 2
        lowest = torch.full([], torch.finfo(scores.dtype).min, dtype=scores.dtype)
        scores = torch.where(self.causal[:, :, :steps, :steps], scores, lowest).softmax(-1)
        return self.c_proj((scores @ v).transpose(1, 2).reshape(batch, steps, -1))

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.wte(input_ids) + self.wpe(torch.arange(input_ids.shape[1]))
        x = x + self.attend(self.ln_1(x))
        x = x + self.c_out(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))
        return self.lm_head(self.ln_f(x))


class LlamaNorm(nn.Module):
    """Root mean square normalisation, at least in single precision."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * wide.to(x.dtype)


class Llama(nn.Module):
    """Rotary positions, keys shared by heads, a gated layer, no biases."""

    def __init__(self, width: int = 8, heads: int = 4, shared: int = 2) -> None:
        super().__init__()
        self.head_dim, self.repeats = width // heads, heads // shared
        self.embed, self.norm1, self.norm2, self.norm = nn.Embedding(20, width), *(LlamaNorm(width) for _ in range(3))
        self.q_proj, self.o_proj = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.k_proj, self.v_proj = (nn.Linear(width, shared * self.head_dim, bias=False) for _ in range(2))
        self.gate_proj, self.up_proj = nn.Linear(width, 12, bias=False), nn.Linear(width, 12, bias=False)
        self.down_proj, self.lm_head = nn.Linear(12, width, bias=False), nn.Linear(width, 20, bias=False)

    def rotate(self, x: Tensor) -> Tensor:
        angles = torch.arange(x.shape[2], dtype=x.dtype)[:, None] * torch.ones(self.head_dim, dtype=x.dtype)
        left, right = x[..., : self.head_dim // 2], x[..., self.head_dim // 2 :]
        return x * angles.cos() + torch.cat((-right, left), dim=-1) * angles.sin()

    def heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], -1, self.head_dim).transpose(1, 2)

    def repeated(self, x: Tensor) -> Tensor:
        batch, heads, steps, width = x.shape
        return x[:, :, None].expand(batch, heads, self.repeats, steps, width).reshape(batch, -1, steps, width)

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(self.q_proj(x)), self.heads(self.k_proj(x)), self.heads(self.v_proj(x))
        k, v = self.repeated(self.rotate(k)), self.repeated(v)
        mixed = F.scaled_dot_product_attention(self.rotate(q), k, v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(*x.shape[:-1], -1))

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        x = x + self.attend(self.norm1(x))
        gated = self.norm2(x)
        x = x + self.down_proj(F.silu(self.gate_proj(gated)) * self.up_proj(gated))
        return self.lm_head(self.norm(x))


def words(batch: int = 2, *, seed: int = 7) -> Tensor:
    return torch.randint(0, 20, (batch, 6), generator=torch.Generator().manual_seed(seed))


def image(batch: int = 2, *, seed: int = 7) -> Tensor:
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sequence(batch: int = 2, *, seed: int = 7) -> Tensor:
    return torch.randn(batch, 6, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def masked_words(batch: int = 2, *, seed: int = 7) -> dict[str, Tensor]:
    mask = torch.ones(batch, 6, dtype=torch.int64)
    mask[0, 4:] = 0
    return {"input_ids": words(batch, seed=seed), "attention_mask": mask}


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 3))


TRANSFORMERS: dict[str, tuple[Callable[[], nn.Module], Callable[..., Any]]] = {
    "vit-fused": (lambda: ViT(TimmAttention), image),
    "vit-written-out": (lambda: ViT(lambda: TimmAttention(fused=False, qk_norm=False)), image),
    "vit-einsum": (lambda: ViT(EinsumAttention), image),
    "bert": (Bert, masked_words),
    "gpt": (Gpt, words),
    "llama": (Llama, words),
    "torch-encoder": (encoder, sequence),
}
