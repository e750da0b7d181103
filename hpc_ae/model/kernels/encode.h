// Forward over many stars: latent, reconstruction, error, chi2.

#pragma once
#include "network.h"

template <int L>
static inline void forward_layers(const float* net, Tile* from, Tile* to, const V* inverse, Tile& latent) {
  if constexpr (L == LAYERS) return;
  else {
    constexpr int I = WIDTHS[L], O = WIDTHS[L + 1];
    constexpr bool scaled = L > 0 && is_hidden(L > 0 ? L - 1 : 0);
    linear<I, O, true>(net + weight_at(L), I, 1, net + bias_at(L), scaled ? inverse : nullptr, *from, *to);
    V next[VECTORS];
    if constexpr (is_hidden(L)) activate<O, false>(*to, next, nullptr);
    if constexpr (L == ENCODER_LAYERS - 1) std::memcpy(latent.row, to->row, sizeof(V) * VECTORS * LATENT);
    forward_layers<L + 1>(net, to, from, next, latent);
  }
}

// Sum over the measured bands of (residual / error)^2; NaN where an error of theirs is not finite and positive.
static inline float chi_squared(const float* residual, const float* error) {
  float sum = 0;
  bool usable = true;
  for (int band = 0; band < BANDS; ++band) {
    if (MASKED && residual[band * TILE] != residual[band * TILE]) continue;
    usable &= error[band] > 0.0f && error[band] <= 3.4028235e38f;
    const float ratio = residual[band * TILE] / error[band];
    sum += ratio * ratio;
  }
  return usable ? sum : __builtin_nanf("");
}

// `reconstruction` may be null; `chi2` and `magnitude_error` are both null or neither.
extern "C" void hpc_ae_encode(const float* parameters, const float* mean, const float* deviation, const float* magnitude,
                              const float* magnitude_error, int64_t num_stars, float* latent, float* reconstruction,
                              float* error, float* chi2) {
  Network net;
  fold_layers<0>(parameters, net.at);
  Tile input, a, b, code;
  for (int64_t start = 0; start < num_stars; start += TILE) {
    const int64_t rows = std::min<int64_t>(TILE, num_stars - start);
    load_tile(magnitude + start * BANDS, nullptr, rows, mean, deviation, input);
    std::memcpy(a.row, input.row, sizeof(V) * VECTORS * WIDTHS[0]);
    forward_layers<0>(net.at, &a, &b, nullptr, code);
    const Tile& output = LAYERS % 2 ? b : a;
    Tile residual;
    V square[VECTORS], share[VECTORS];
    for (int v = 0; v < VECTORS; ++v) square[v] = share[v] = V{};
    for (int band = 0; band < BANDS; ++band)
      for (int v = 0; v < VECTORS; ++v) {
        V r = (input.row[band][v] - output.row[band][v]) * deviation[band];
        if constexpr (MASKED) {
          const V measured = input.row[BANDS + band][v];
          residual.row[band][v] = measured > V{} ? r : splat(__builtin_nanf(""));
          r = r * measured;
          share[v] += measured;
        } else {
          residual.row[band][v] = r;
        }
        square[v] += r * r;
      }
    for (int v = 0; v < VECTORS; ++v) share[v] = MASKED ? 1.0f / share[v] : splat(1.0f / BANDS);
    const float *codes = reinterpret_cast<const float*>(code.row), *rest = reinterpret_cast<const float*>(residual.row);
    const float *squares = reinterpret_cast<const float*>(square), *shares = reinterpret_cast<const float*>(share);
    const float* answers = reinterpret_cast<const float*>(output.row);
    for (int64_t t = 0; t < rows; ++t) {
      for (int l = 0; l < LATENT; ++l) latent[(start + t) * LATENT + l] = codes[l * TILE + t];
      error[start + t] = __builtin_sqrtf(squares[t] * shares[t]);
      if (chi2) chi2[start + t] = chi_squared(rest + t, magnitude_error + (start + t) * BANDS);
      if (reconstruction)
        for (int band = 0; band < BANDS; ++band) {
          const int64_t at = (start + t) * BANDS + band;
          const float r = rest[band * TILE + t];
          const bool is_predicted = MASKED && r != r;
          const float answer = answers[band * TILE + t] * deviation[band] + mean[band];
          reconstruction[at] = is_predicted ? answer : magnitude[at] - r;
        }
    }
  }
}
