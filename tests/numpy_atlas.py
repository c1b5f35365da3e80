"""The atlas's forward pass and some losses once more, in NumPy and float64, straight from the formulas (model §1-5).

Slow and plain: the transport is the dense Cayley transform of every sample, and nothing is shared with the package.
"""

import math

import numpy as np

erf = np.vectorize(math.erf)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def spectral(kernel, u):
    """W / max(σ, 1) after three power iterations from u."""
    kernel, u = np.float64(kernel), np.float64(u)
    for _ in range(3):
        v = kernel.T @ u
        v /= max(np.linalg.norm(v), 1e-12)
        u = kernel @ v
        u /= max(np.linalg.norm(u), 1e-12)
    return kernel / max(abs(u @ kernel @ v), 1.0)


def gate(x, beta):
    """x_j gelu(‖x_j‖ + β_j) over bundles of the last axis."""
    parts = x.reshape(*x.shape[:-1], len(beta), -1)
    e = np.sqrt((parts**2).sum(axis=-1) + 1e-12) + beta
    return (parts * (e * 0.5 * (1 + erf(e / math.sqrt(2))))[..., None]).reshape(x.shape)


class Atlas:
    """Of the original's form: no ball, parity, no gains; params and vectors are the package's trees."""

    def __init__(self, params, vectors, config):
        self.p, self.u, self.c = params, vectors, config

    def linear(self, part, name, x, which=None):
        layer, u = self.p[part][name], self.u[part][name]["u"]
        kernel = spectral(layer["kernel"], u)
        return x @ kernel.T + np.float64(layer.get("bias", 0.0))

    def router(self, part, z, base, features=None):
        hidden, dim = self.c["hidden_dim"], self.c["latent_dim"]
        p, u = self.p[part]["router"], self.u[part]["router"]

        def apply(name, x):
            return x @ spectral(p[name]["kernel"], u[name]["u"]).T + np.float64(p[name].get("bias", 0.0))

        query = apply("query_z", z)
        if self.c["tensorization"] == "full":
            query = query + np.einsum("kij,bi,bj->bk", np.float64(p["gamma"]), z, z)
        else:
            query = query + ((z @ p["gamma_u"].T) * (z @ p["gamma_v"].T)) @ p["gamma_out"]
        if features is not None:
            query = query + apply("query_features", features)
        s = apply("transport", z).reshape(-1, hidden, hidden)
        half, e = 0.25 * (s - s.transpose(0, 2, 1)), (1 + 1e-3) * np.eye(hidden)
        keys = np.linalg.solve(e + half, (e - half) @ base.T).transpose(0, 2, 1)
        tau = np.maximum(math.sqrt(hidden) * np.maximum(1 - (z**2).sum(axis=1), 1e-3) / 2, 1e-2)
        assert dim == z.shape[1]
        return softmax(np.einsum("bnh,bh->bn", keys, query) / tau[:, None])

    def encode(self, x):
        p = self.p["encoder"]
        f = gate(self.linear("encoder", "features_0", np.float64(x)), p["gate_0"]["beta"])
        f = gate(self.linear("encoder", "features_1", f), p["gate_1"]["beta"])
        v = self.linear("encoder", "value", f)
        centers, codebook = np.float64(p["centers"]), np.float64(p["codebook"])
        w = self.router("encoder", v, self.linear("encoder", "chart_keys", centers), f)
        c_bar = w @ centers
        local = v - c_bar
        distances = ((local[:, None, None] - codebook[None]) ** 2).sum(axis=-1)
        codes = distances.argmin(axis=-1)
        z_q_all = np.take_along_axis(codebook[None], codes[:, :, None, None], axis=2)[:, :, 0]
        block, u = p["filter_0"], self.u["encoder"]["filter_0"]["u"]
        z_n_all = gate((local[:, None] - z_q_all) @ spectral(block["kernel"], u), block["gate"]["beta"])
        z_n_all = self.linear("encoder", "filter_1", z_n_all)
        z_n, z_q = (np.einsum("bn,bnd->bd", w, part) for part in (z_n_all, z_q_all))
        z_geo = c_bar + z_q + z_n
        found = {"router": w, "codes": codes, "chart": w.argmax(axis=1), "c_bar": c_bar, "v": v, "z_n_all": z_n_all}
        return found | {"z_n": z_n, "z_q_all": z_q_all, "z_geo": z_geo, "z_tex": local - z_q - z_n}

    def decode(self, z_geo, z_tex):
        p, zeta = self.p["decoder"], np.tanh(z_geo)
        w = self.router("decoder", zeta, np.float64(p["chart_queries"]))
        kernels, us = p["projectors"]["kernel"], self.u["decoder"]["projectors"]["u"]
        each = [gate(zeta @ spectral(k, u).T, p["chart_gate"]["beta"]) for k, u in zip(kernels, us, strict=True)]
        h = np.einsum("bn,nbh->bh", w, np.stack(each))
        y = gate(self.linear("decoder", "render_0", h), p["gate_0"]["beta"])
        y = gate(self.linear("decoder", "render_1", y), p["gate_1"]["beta"])
        drawn = self.linear("decoder", "render_2", y) + self.linear("decoder", "skip", h)
        return w, drawn + p["texture_scale"] * self.linear("decoder", "texture", np.tanh(z_tex))

    def losses(self, x, e, decoder_router, x_hat):
        """Some terms of model §7."""
        w, local = e["router"], e["v"] - e["c_bar"]
        usage = w.mean(axis=0)
        used = -(usage * np.log(usage + 1e-6)).sum()
        given = -(w * np.log(w + 1e-6)).sum(axis=1).mean()
        vq = (w * ((e["z_q_all"] - local[:, None]) ** 2).sum(axis=-1)).sum() / local.size
        ratio = np.log((w + 1e-6) / (decoder_router + 1e-6))
        return {
            "recon": ((x_hat - x) ** 2).mean(),
            "vq": 1.25 * vq,
            "entropy": given,
            "diversity": math.log(w.shape[1]) - used,
            "consistency": (w * ratio).sum(axis=1).mean(),
            "residual_scale": (e["z_n"] ** 2).sum(axis=1).mean(),
            "orthogonality": self.orthogonality(),
        }

    def orthogonality(self):
        """Mean variance (biased) of the logs of singular values, clamped at 1e-6, of the kernels up to 64 × 64."""
        kernels = [k for part in ("encoder", "decoder") for k in _kernels(self.p[part])]
        small = [np.float64(k) for k in kernels if k.ndim == 2 and max(k.shape) <= 64]
        return np.mean([np.log(np.maximum(np.linalg.svd(k, compute_uv=False), 1e-6)).var() for k in small])


def _kernels(tree):
    for name, leaf in tree.items():
        if isinstance(leaf, dict):
            yield from _kernels(leaf)
        elif name == "kernel":
            yield leaf
