// The network on one tile: layout, layers, activation, and what forward and gradient share.

#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 5;  // ROWS x (TILE / LANES) accumulators fit the 32 registers
#elif defined(__AVX2__)
constexpr int LANES = 8, ROWS = 3;
#else
constexpr int LANES = 4, ROWS = 3;
#endif
constexpr int VECTORS = 4;
constexpr int TILE = VECTORS * LANES;
typedef float V __attribute__((vector_size(LANES * 4)));
typedef int32_t VI __attribute__((vector_size(LANES * 4)));

constexpr int WIDTHS[] = {HPC_AE_WIDTHS};
constexpr int LAYERS = sizeof(WIDTHS) / sizeof(int) - 1;
constexpr int ENCODER_LAYERS = HPC_AE_LATENT;
constexpr int BANDS = WIDTHS[LAYERS], LATENT = WIDTHS[ENCODER_LAYERS];
constexpr bool MASKED = WIDTHS[0] != BANDS;  // behind the magnitudes stands which are measured
constexpr float EPSILON = 1e-5f;  // torch.nn.LayerNorm's default

constexpr bool is_hidden(int layer) { return layer != ENCODER_LAYERS - 1 && layer != LAYERS - 1; }
constexpr int max_width() {
  int most = 0;
  for (int width : WIDTHS) most = width > most ? width : most;
  return most;
}
constexpr int padded(int width) { return (width + LANES - 1) / LANES * LANES; }
constexpr int MAX_WIDTH = max_width();

// Where a layer's tensors lie in the flat parameters, in PyTorch's order: weight, bias, LayerNorm weight and bias.
constexpr int weight_at(int layer) {
  int at = 0;
  for (int l = 0; l < layer; ++l) at += WIDTHS[l + 1] * (WIDTHS[l] + 1) + (is_hidden(l) ? 2 * WIDTHS[l + 1] : 0);
  return at;
}
constexpr int bias_at(int layer) { return weight_at(layer) + WIDTHS[layer] * WIDTHS[layer + 1]; }
constexpr int scale_at(int layer) { return bias_at(layer) + WIDTHS[layer + 1]; }
constexpr int shift_at(int layer) { return scale_at(layer) + WIDTHS[layer + 1]; }
constexpr int NUM_PARAMETERS = weight_at(LAYERS);

// The folded network, and the gradient of it: the same offsets as the flat parameters.
struct alignas(64) Network { float at[NUM_PARAMETERS + LANES]; };
struct alignas(64) Tile { V row[MAX_WIDTH][VECTORS]; };
// Forward results of one tile that backward needs, per layer: normalised output, SiLU's derivative, 1 / deviation.
struct alignas(64) Saved { Tile output[LAYERS + 1], slope[LAYERS]; V inverse[LAYERS][VECTORS]; };

static inline V splat(float value) { return V{} + value; }

static inline V exponential(V x) {  // Cephes expf: 2 ulp
  x = x > splat(-87.0f) ? x : splat(-87.0f);
  x = x < splat(87.0f) ? x : splat(87.0f);
  const V magic = splat(12582912.0f);
  V n = (x * 1.44269504088896341f + magic) - magic;
  V r = x - n * 0.693359375f - n * -2.12194440e-4f;
  V p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  VI power = (__builtin_convertvector(n, VI) + 127) << 23;
  return p * (V)power;
}

static inline V inverse_root(V x) {
  V result;
  for (int lane = 0; lane < LANES; ++lane) result[lane] = 1.0f / __builtin_sqrtf(x[lane]);
  return result;
}

static inline float lane_sum(V x) {  // in halves: a chain of additions would wait for each
  float part[LANES];
  std::memcpy(part, &x, sizeof part);
  for (int width = LANES / 2; width; width /= 2)
    for (int lane = 0; lane < width; ++lane) part[lane] += part[lane + width];
  return part[0];
}

static inline void add_to(float* target, V x) {
  V sum;
  std::memcpy(&sum, target, sizeof sum);
  sum += x;
  std::memcpy(target, &sum, sizeof sum);
}

// out = weight . in (* factor) + bias for `N` outputs from `first`; weight[o * out_step + i * in_step].
template <int N, int I, bool BIAS>
static inline void rows_times_tile(const float* weight, int out_step, int in_step, const float* bias, const V* factor,
                                   const Tile& in, Tile& out, int first) {
  V sum[N][VECTORS];
  for (int n = 0; n < N; ++n)
    for (int v = 0; v < VECTORS; ++v) sum[n][v] = V{};
  for (int i = 0; i < I; ++i) {
    V x[VECTORS];
    for (int v = 0; v < VECTORS; ++v) x[v] = in.row[i][v];
    for (int n = 0; n < N; ++n) {
      V w = splat(weight[(first + n) * out_step + i * in_step]);
      for (int v = 0; v < VECTORS; ++v) sum[n][v] += w * x[v];
    }
  }
  for (int n = 0; n < N; ++n)
    for (int v = 0; v < VECTORS; ++v) {
      V value = factor ? sum[n][v] * factor[v] : sum[n][v];
      out.row[first + n][v] = BIAS ? value + bias[first + n] : value;
    }
}

template <int I, int O, bool BIAS>
static inline void linear(const float* weight, int out_step, int in_step, const float* bias, const V* factor,
                          const Tile& in, Tile& out) {
  int first = 0;
  for (; first + ROWS <= O; first += ROWS)
    rows_times_tile<ROWS, I, BIAS>(weight, out_step, in_step, bias, factor, in, out, first);
  constexpr int REST = O % ROWS;
  if constexpr (REST > 0) rows_times_tile<REST, I, BIAS>(weight, out_step, in_step, bias, factor, in, out, first);
}

// SiLU and centring in place; `inverse` gets 1 / deviation, which the next layer's output is multiplied by.
template <int O, bool SAVE>
static inline void activate(Tile& tile, V* inverse, Tile* slope) {
  V mean[VECTORS], square[VECTORS];
  for (int v = 0; v < VECTORS; ++v) mean[v] = square[v] = V{};
  for (int o = 0; o < O; ++o)
    for (int v = 0; v < VECTORS; ++v) {
      V x = tile.row[o][v];
      V sigmoid = 1.0f / (1.0f + exponential(-x));
      V h = x * sigmoid;
      if constexpr (SAVE) slope->row[o][v] = sigmoid + h * (1.0f - sigmoid);
      tile.row[o][v] = h;
      mean[v] += h;
    }
  for (int v = 0; v < VECTORS; ++v) mean[v] *= 1.0f / O;
  for (int o = 0; o < O; ++o)
    for (int v = 0; v < VECTORS; ++v) {
      V h = tile.row[o][v] - mean[v];
      tile.row[o][v] = h;
      square[v] += h * h;
    }
  for (int v = 0; v < VECTORS; ++v) inverse[v] = inverse_root(square[v] * (1.0f / O) + EPSILON);
}

template <int L>
static void fold_layers(const float* parameters, float* folded) {
  if constexpr (L < LAYERS) {
    constexpr int I = WIDTHS[L], O = WIDTHS[L + 1];
    const float *weight = parameters + weight_at(L), *bias = parameters + bias_at(L);
    for (int o = 0; o < O; ++o) {
      float sums[8] = {bias[o]};
      for (int i = 0; i < I; ++i) {
        float scale = 1.0f;
        if constexpr (L > 0 && is_hidden(L > 0 ? L - 1 : 0)) {
          scale = parameters[scale_at(L - 1) + i];
          sums[i % 8] += weight[o * I + i] * parameters[shift_at(L - 1) + i];
        }
        folded[weight_at(L) + o * I + i] = weight[o * I + i] * scale;
      }
      for (int k = 1; k < 8; ++k) sums[0] += sums[k];
      folded[bias_at(L) + o] = sums[0];
    }
    fold_layers<L + 1>(parameters, folded);
  }
}

static inline void load_tile(const float* magnitude, const int64_t* index, int64_t rows, const float* mean,
                             const float* deviation, Tile& tile, int stride = BANDS) {
  float* out = reinterpret_cast<float*>(tile.row);
  for (int t = 0; t < TILE; ++t) {
    const float* star = magnitude + (index ? index[std::min<int64_t>(t, rows - 1)] : std::min<int64_t>(t, rows - 1)) * stride;
    for (int b = 0; b < BANDS; ++b) out[b * TILE + t] = star[b];
  }
  for (int b = 0; b < BANDS; ++b)
    for (int v = 0; v < VECTORS; ++v) {
      const V scaled = (tile.row[b][v] - mean[b]) / deviation[b];
      if constexpr (MASKED) {  // NaN is not measured
        const VI measured = scaled == scaled;
        tile.row[b][v] = measured ? scaled : V{};
        tile.row[BANDS + b][v] = measured ? splat(1.0f) : V{};
      } else {
        tile.row[b][v] = scaled;
      }
    }
}
