// Bands that are hidden from the network in training, by counter: those of a star depend on (seed, step, row) alone.
// hpc_ae/model/hiding.py has the same definition by PyTorch's operators; tests/test_masked.py holds them together.

#pragma once
#include "noise.h"

struct Hiding {
  const int64_t* row;  // numbers of training rows
  int64_t step;
  uint64_t threshold;  // of 2^32: how often a star has bands hidden
  uint32_t seed;
  int32_t least;  // bands that are left
};

constexpr uint32_t HIDE = 0x68696465u;

// Of one star: the `num` measured bands with the smallest words, or 0 where there is nothing to hide.
static inline void hide_star(const Hiding& hiding, const Words* words, int t, float* mask) {
  int measured = 0;
  for (int b = 0; b < BANDS; ++b) measured += mask[b * TILE + t] != 0.0f;
  const int most = measured - hiding.least;
  if (words[0].at[0][t] >= hiding.threshold || most <= 0) return;
  const int num = 1 + int(uint64_t(words[0].at[1][t]) * uint64_t(most) >> 32);
  for (int k = 0; k < num; ++k) {
    int best = -1;
    for (int b = 0; b < BANDS; ++b)
      if (mask[b * TILE + t] != 0.0f &&
          (best < 0 || words[1 + b / DRAWN].at[b % DRAWN][t] < words[1 + best / DRAWN].at[best % DRAWN][t]))
        best = b;
    mask[best * TILE + t] = 0.0f;
  }
}

// Take bands out of what is seen of the rows from `start`: values and mask become 0.
static inline void hide_bands(const Hiding& hiding, int64_t start, int64_t rows, Tile& tile) {
  constexpr int BLOCKS = 1 + (BANDS + DRAWN - 1) / DRAWN;
  Words words[BLOCKS];
  for (int block = 0; block < BLOCKS; ++block)
    philox(hiding.row, hiding.step, hiding.seed, HIDE, start, rows, uint32_t(block), words[block]);
  float* mask = reinterpret_cast<float*>(tile.row + BANDS);
  for (int t = 0; t < TILE; ++t) hide_star(hiding, words, t, mask);
  for (int b = 0; b < BANDS; ++b)
    for (int v = 0; v < VECTORS; ++v) tile.row[b][v] *= tile.row[BANDS + b][v];
}

// Which bands of some rows of magnitudes are hidden: 1 or 0, (num_rows, BANDS).
extern "C" void hpc_ae_hidden(const Hiding* hiding, const float* magnitude, int64_t num_rows, uint8_t* out) {
  if constexpr (MASKED) {
    Tile tile;
    float zero[BANDS] = {}, one[BANDS];
    for (float& value : one) value = 1.0f;
    const float* mask = reinterpret_cast<const float*>(tile.row + BANDS);
    for (int64_t start = 0; start < num_rows; start += TILE) {
      const int64_t rows = std::min<int64_t>(TILE, num_rows - start);
      load_tile(magnitude + start * BANDS, nullptr, rows, zero, one, tile);
      const Tile before = tile;
      hide_bands(*hiding, start, rows, tile);
      const float* had = reinterpret_cast<const float*>(before.row + BANDS);
      for (int64_t t = 0; t < rows; ++t)
        for (int b = 0; b < BANDS; ++b) out[(start + t) * BANDS + b] = had[b * TILE + t] != mask[b * TILE + t];
    }
  }
}
