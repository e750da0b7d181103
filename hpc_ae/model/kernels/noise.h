// Normal numbers by counter, for training with noise: those of a star depend on (seed, step, row) alone.
// hpc_ae/model/noise.py has the same definition by PyTorch's operators; tests/test_denoising.py holds them together.

#pragma once
#include "network.h"

// Rows are int64 numbers of training rows; sigma is in mag, negative: each star's own errors, which follow its magnitudes.
struct Noise {
  const int64_t* row;
  int64_t step;
  uint32_t seed;
  float sigma;
  float echo;  // how much of the noise is taken off the target

  int stride() const { return sigma < 0.0f ? 2 * BANDS : BANDS; }
};

constexpr uint32_t NOISE = 0x6E6F6973u;
constexpr int DRAWN = 4;  // numbers of one call of the generator
struct alignas(64) Words { uint32_t at[DRAWN][TILE]; };

// Philox4x32-10 (Salmon et al. 2011), counter (row low, row high, step, block), key (seed, what for).
static inline void philox(const int64_t* row_numbers, int64_t step, uint32_t seed, uint32_t what, int64_t start,
                          int64_t rows, uint32_t block, Words& words) {
  uint32_t(&c)[DRAWN][TILE] = words.at;
  for (int t = 0; t < TILE; ++t) {
    const uint64_t row = uint64_t(row_numbers[start + std::min<int64_t>(t, rows - 1)]);
    c[0][t] = uint32_t(row);
    c[1][t] = uint32_t(row >> 32);
    c[2][t] = uint32_t(step);
    c[3][t] = block;
  }
  uint32_t key0 = seed, key1 = what;
  for (int round = 0; round < 10; ++round, key0 += 0x9E3779B9u, key1 += 0xBB67AE85u)
    for (int t = 0; t < TILE; ++t) {
      const uint64_t even = uint64_t(0xD2511F53u) * c[0][t], odd = uint64_t(0xCD9E8D57u) * c[2][t];
      c[0][t] = uint32_t(odd >> 32) ^ c[1][t] ^ key0;
      c[2][t] = uint32_t(even >> 32) ^ c[3][t] ^ key1;
      c[1][t] = uint32_t(odd);
      c[3][t] = uint32_t(even);
    }
}

static inline V vector_of(const float* at) {
  V x;
  std::memcpy(&x, at, sizeof x);
  return x;
}

static inline V logarithm(V x) {  // Cephes logf, x > 0 and normal
  VI bits = (VI)x, exponent = ((bits >> 23) & 255) - 126;
  V m = (V)((bits & 0x007FFFFF) | 0x3F000000);  // 0.5 to 1
  VI low = m < splat(0.70710678f);
  V e = __builtin_convertvector(exponent + low, V);  // low is -1 or 0
  m = low ? m + m - 1.0f : m - 1.0f;
  V z = m * m;
  V p = splat(7.0376836292e-2f);
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  return e * 0.693359375f + (p * m * z - e * 2.12194440e-4f - z * 0.5f + m);
}

// sin and cos of pi * turn, turn from -1 to 1 (Cephes sinf and cosf within a quarter of a turn).
static inline void sine_cosine(V turn, V& sine, V& cosine) {
  const V magic = splat(12582912.0f);
  V quarter = (turn * 2.0f + magic) - magic;
  V x = (turn * 2.0f - quarter) * 1.57079632679f, z = x * x;
  V s = ((z * -1.9515295891e-4f + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z * x + x;
  V c = ((z * 2.443315711809948e-5f - 1.388731625493765e-3f) * z + 4.166664568298827e-2f) * z * z - z * 0.5f + 1.0f;
  VI q = __builtin_convertvector(quarter, VI), odd = (q & 1) != 0;
  V a = odd ? c : s, b = odd ? s : c;
  sine = (q & 2) != 0 ? -a : a;
  cosine = ((q + 1) & 2) != 0 ? -b : b;
}

// Standard normal numbers of the rows from `start`, by the Box-Muller transform, into the first BANDS rows of a tile.
static inline void draw_normals(const Noise& noise, int64_t start, int64_t rows, Tile& tile) {
  for (int first = 0; first < BANDS; first += DRAWN) {
    Words words;
    philox(noise.row, noise.step, noise.seed, NOISE, start, rows, uint32_t(first / DRAWN), words);
    alignas(64) float uniform[TILE], turn[TILE];
    for (int pair = 0; pair < 2 && first + 2 * pair < BANDS; ++pair) {
      for (int t = 0; t < TILE; ++t) {
        uniform[t] = (float(int32_t(words.at[2 * pair][t] >> 9)) + 0.5f) * 0x1p-23f;
        turn[t] = float(int32_t(words.at[2 * pair + 1][t])) * 0x1p-31f;
      }
      const int band = first + 2 * pair;
      for (int v = 0; v < VECTORS; ++v) {
        V square = logarithm(vector_of(uniform + v * LANES)) * -2.0f, radius, sine, cosine;
        for (int lane = 0; lane < LANES; ++lane) radius[lane] = __builtin_sqrtf(square[lane]);
        sine_cosine(vector_of(turn + v * LANES), sine, cosine);
        tile.row[band][v] = radius * cosine;
        if (band + 1 < BANDS) tile.row[band + 1][v] = radius * sine;
      }
    }
  }
}

// Add noise to a scaled tile, and take its echo off the target; `index` says which rows of `magnitude` (with errors behind
// them) the stars are. `target` begins as the work space of the normal numbers.
static inline void add_noise(const Noise& noise, const float* magnitude, const int64_t* index, int64_t start,
                             int64_t rows, const float* deviation, Tile& tile, Tile& target) {
  draw_normals(noise, start, rows, target);
  for (int b = 0; b < BANDS; ++b) {
    alignas(64) float sigma[TILE];
    for (int t = 0; t < TILE; ++t) {
      const int64_t star = index[start + std::min<int64_t>(t, rows - 1)];
      sigma[t] = noise.sigma < 0.0f ? magnitude[star * 2 * BANDS + BANDS + b] : noise.sigma;
    }
    for (int v = 0; v < VECTORS; ++v) {
      V drawn = target.row[b][v] * vector_of(sigma + v * LANES) / deviation[b];
      if constexpr (MASKED) {
        drawn = drawn * tile.row[BANDS + b][v];
        target.row[BANDS + b][v] = tile.row[BANDS + b][v];
      }
      target.row[b][v] = tile.row[b][v] - drawn * noise.echo;
      tile.row[b][v] += drawn;
    }
  }
}

// Standard normal numbers of some rows, (num_rows, BANDS).
extern "C" void hpc_ae_normals(const Noise* noise, int64_t num_rows, float* out) {
  Tile tile;
  const float* at = reinterpret_cast<const float*>(tile.row);
  for (int64_t start = 0; start < num_rows; start += TILE) {
    const int64_t rows = std::min<int64_t>(TILE, num_rows - start);
    draw_normals(*noise, start, rows, tile);
    for (int64_t t = 0; t < rows; ++t)
      for (int b = 0; b < BANDS; ++b) out[(start + t) * BANDS + b] = at[b * TILE + t];
  }
}
