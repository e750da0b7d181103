// The autoencoder in one pass over tiles of TILE stars that stay in the cache through all layers: forward, and forward
// with gradient. Built at first use for one architecture (HPC_AE_WIDTHS: the widths of the whole chain, HPC_AE_LATENT:
// how many layers the encoder has) and for this processor; hpc_ae/model/kernel.py builds and calls it.
//
// Layout: activations are feature-major, [width][TILE], so that SIMD lanes are stars. Every star goes through the same
// operations in the same order whatever its lane: outputs do not depend on position, company, or number of threads.
// LayerNorm's scale and shift are folded into the next layer's weights (`fold`), its centring is done explicitly.
// Legend: T stars of a tile, I inputs, O outputs of a layer, V lanes.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

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
constexpr int BANDS = WIDTHS[0], LATENT = WIDTHS[ENCODER_LAYERS];
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

static inline float lane_sum(V x) {
  float sum = 0;
  for (int lane = 0; lane < LANES; ++lane) sum += x[lane];
  return sum;
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
      float sum = bias[o];
      for (int i = 0; i < I; ++i) {
        float scale = 1.0f;
        if constexpr (L > 0 && is_hidden(L > 0 ? L - 1 : 0)) {
          scale = parameters[scale_at(L - 1) + i];
          sum += weight[o * I + i] * parameters[shift_at(L - 1) + i];
        }
        folded[weight_at(L) + o * I + i] = weight[o * I + i] * scale;
      }
      folded[bias_at(L) + o] = sum;
    }
    fold_layers<L + 1>(parameters, folded);
  }
}

static inline void load_tile(const float* magnitude, const int64_t* index, int64_t rows, const float* mean,
                             const float* deviation, Tile& tile) {
  float* out = reinterpret_cast<float*>(tile.row);
  for (int t = 0; t < TILE; ++t) {
    const float* star = magnitude + (index ? index[std::min<int64_t>(t, rows - 1)] : std::min<int64_t>(t, rows - 1)) * BANDS;
    for (int b = 0; b < BANDS; ++b) out[b * TILE + t] = star[b];
  }
  for (int b = 0; b < BANDS; ++b)
    for (int v = 0; v < VECTORS; ++v) tile.row[b][v] = (tile.row[b][v] - mean[b]) / deviation[b];
}

// ---- forward -------------------------------------------------------------------------------------------------------

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

// Sum over bands of (residual / error)^2; NaN where an error is not finite and positive.
static inline float chi_squared(const float* residual, const float* error) {
  float sum = 0;
  bool usable = true;
  for (int band = 0; band < BANDS; ++band) {
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
    std::memcpy(a.row, input.row, sizeof(V) * VECTORS * BANDS);
    forward_layers<0>(net.at, &a, &b, nullptr, code);
    const Tile& output = LAYERS % 2 ? b : a;
    Tile residual;
    V square[VECTORS];
    for (int v = 0; v < VECTORS; ++v) square[v] = V{};
    for (int band = 0; band < BANDS; ++band)
      for (int v = 0; v < VECTORS; ++v) {
        V r = (input.row[band][v] - output.row[band][v]) * deviation[band];
        residual.row[band][v] = r;
        square[v] += r * r;
      }
    const float *codes = reinterpret_cast<const float*>(code.row), *rest = reinterpret_cast<const float*>(residual.row);
    const float* squares = reinterpret_cast<const float*>(square);
    for (int64_t t = 0; t < rows; ++t) {
      for (int l = 0; l < LATENT; ++l) latent[(start + t) * LATENT + l] = codes[l * TILE + t];
      error[start + t] = __builtin_sqrtf(squares[t] * (1.0f / BANDS));
      if (chi2) chi2[start + t] = chi_squared(rest + t, magnitude_error + (start + t) * BANDS);
      if (reconstruction)
        for (int band = 0; band < BANDS; ++band) {
          const int64_t at = (start + t) * BANDS + band;
          reconstruction[at] = magnitude[at] - rest[band * TILE + t];
        }
    }
  }
}

// ---- forward and gradient ------------------------------------------------------------------------------------------

template <int L>
static inline void forward_saving(const float* net, Saved& saved) {
  if constexpr (L < LAYERS) {
    constexpr int I = WIDTHS[L], O = WIDTHS[L + 1];
    linear<I, O, true>(net + weight_at(L), I, 1, net + bias_at(L), nullptr, saved.output[L], saved.output[L + 1]);
    if constexpr (is_hidden(L)) {
      activate<O, true>(saved.output[L + 1], saved.inverse[L], &saved.slope[L]);
      for (int o = 0; o < O; ++o)
        for (int v = 0; v < VECTORS; ++v) saved.output[L + 1].row[o][v] *= saved.inverse[L][v];
    }
    forward_saving<L + 1>(net, saved);
  }
}

// Lane l of the result: from a where l has not the bit S, else from b, S lanes away (low), and the other way round.
template <int S, int... L>
static inline V low_half(V a, V b, std::integer_sequence<int, L...>) {
  return __builtin_shufflevector(a, b, ((L & S) == 0 ? L : LANES + L - S)...);
}
template <int S, int... L>
static inline V high_half(V a, V b, std::integer_sequence<int, L...>) {
  return __builtin_shufflevector(a, b, ((L & S) == 0 ? L + S : LANES + L)...);
}

// Transpose LANES x LANES floats by swapping off-diagonal blocks of 1, 2, 4, ... lanes.
template <int S>
static inline void transpose(V* row) {
  if constexpr (S < LANES) {
    constexpr auto lanes = std::make_integer_sequence<int, LANES>{};
    for (int i = 0; i < LANES; ++i)
      if ((i & S) == 0) {
        V low = low_half<S>(row[i], row[i + S], lanes), high = high_half<S>(row[i], row[i + S], lanes);
        row[i] = low;
        row[i + S] = high;
      }
    transpose<2 * S>(row);
  }
}

// gradient[o][i] += sum over stars of delta[o] . input[i]; lanes run over inputs, so the input is transposed first.
template <int I, int O>
static inline void add_outer(const Tile& delta, const Tile& input, float* gradient) {
  constexpr int WIDE = padded(I), PARTS = WIDE / LANES, BLOCK = std::max(1, 24 / PARTS);
  V turned[TILE][PARTS];
  for (int p = 0; p < PARTS; ++p)
    for (int v = 0; v < VECTORS; ++v) {
      V square[LANES];
      for (int i = 0; i < LANES; ++i) square[i] = p * LANES + i < I ? input.row[p * LANES + i][v] : V{};
      transpose<1>(square);
      for (int t = 0; t < LANES; ++t) turned[v * LANES + t][p] = square[t];
    }
  const float* d = reinterpret_cast<const float*>(delta.row);
  for (int o0 = 0; o0 < O; o0 += BLOCK) {
    V sum[BLOCK][PARTS];
    for (int n = 0; n < BLOCK; ++n)
      for (int p = 0; p < PARTS; ++p) sum[n][p] = V{};
    for (int t = 0; t < TILE; ++t) {
      const V* x = turned[t];
      for (int n = 0; n < BLOCK; ++n) {
        V w = splat(d[std::min(o0 + n, O - 1) * TILE + t]);
        for (int p = 0; p < PARTS; ++p) sum[n][p] += w * x[p];
      }
    }
    for (int n = 0; n < BLOCK && o0 + n < O; ++n)
      for (int i = 0; i < I; ++i) gradient[(o0 + n) * I + i] += sum[n][i / LANES][i % LANES];
  }
}

template <int L>
static inline void backward_layers(const float* net, const Saved& saved, Tile* delta, Tile* other, float* gradient) {
  if constexpr (L >= 0) {
    constexpr int I = WIDTHS[L], O = WIDTHS[L + 1];
    if constexpr (is_hidden(L)) {  // through LayerNorm and SiLU
      V mean[VECTORS], along[VECTORS];
      for (int v = 0; v < VECTORS; ++v) mean[v] = along[v] = V{};
      for (int o = 0; o < O; ++o)
        for (int v = 0; v < VECTORS; ++v) {
          mean[v] += delta->row[o][v];
          along[v] += delta->row[o][v] * saved.output[L + 1].row[o][v];
        }
      for (int o = 0; o < O; ++o)
        for (int v = 0; v < VECTORS; ++v) {
          V d = delta->row[o][v] - mean[v] * (1.0f / O) - saved.output[L + 1].row[o][v] * along[v] * (1.0f / O);
          delta->row[o][v] = d * saved.inverse[L][v] * saved.slope[L].row[o][v];
        }
    }
    add_outer<I, O>(*delta, saved.output[L], gradient + weight_at(L));
    for (int o = 0; o < O; ++o) {
      V sum = delta->row[o][0];
      for (int v = 1; v < VECTORS; ++v) sum += delta->row[o][v];
      gradient[bias_at(L) + o] += lane_sum(sum);
    }
    if constexpr (L > 0) linear<O, I, false>(net + weight_at(L), 1, I, nullptr, nullptr, *delta, *other);
    backward_layers<L - 1>(net, saved, other, delta, gradient);
  }
}

// From the gradient of the folded network to that of the parameters.
template <int L>
static void unfold_gradient(const float* parameters, const float* folded, float* gradient) {
  if constexpr (L < LAYERS) {
    constexpr int I = WIDTHS[L], O = WIDTHS[L + 1];
    for (int o = 0; o < O; ++o) {
      const float bias = folded[bias_at(L) + o];
      gradient[bias_at(L) + o] = bias;
      for (int i = 0; i < I; ++i) {
        const int at = weight_at(L) + o * I + i;
        if constexpr (L > 0 && is_hidden(L > 0 ? L - 1 : 0)) {
          gradient[at] = folded[at] * parameters[scale_at(L - 1) + i] + bias * parameters[shift_at(L - 1) + i];
          gradient[scale_at(L - 1) + i] += parameters[at] * folded[at];
          gradient[shift_at(L - 1) + i] += parameters[at] * bias;
        } else {
          gradient[at] = folded[at];
        }
      }
    }
    unfold_gradient<L + 1>(parameters, folded, gradient);
  }
}

// Loss (sum over stars of the mean over bands of residual^2, mag^2) and its gradient, of the rows index[0..num_rows).
extern "C" double hpc_ae_gradient(const float* parameters, const float* mean, const float* deviation,
                                  const float* magnitude, const int64_t* index, int64_t num_rows, float factor,
                                  float* gradient) {
  static thread_local Saved saved;
  static thread_local Network net, folded;
  static thread_local Tile delta, other;
  fold_layers<0>(parameters, net.at);
  std::memset(folded.at, 0, sizeof folded.at);
  std::memset(gradient, 0, sizeof(float) * NUM_PARAMETERS);
  double loss = 0;
  for (int64_t start = 0; start < num_rows; start += TILE) {
    const int64_t rows = std::min<int64_t>(TILE, num_rows - start);
    load_tile(index ? magnitude : magnitude + start * BANDS, index ? index + start : nullptr, rows, mean, deviation,
              saved.output[0]);
    forward_saving<0>(net.at, saved);
    for (int b = 0; b < BANDS; ++b)
      for (int v = 0; v < VECTORS; ++v) {
        V residual = (saved.output[0].row[b][v] - saved.output[LAYERS].row[b][v]) * deviation[b];
        for (int lane = 0; lane < LANES; ++lane)
          if (v * LANES + lane >= rows) residual[lane] = 0.0f;
        loss += lane_sum(residual * residual);
        delta.row[b][v] = residual * (-2.0f / BANDS * deviation[b] * factor);
      }
    backward_layers<LAYERS - 1>(net.at, saved, &delta, &other, folded.at);
  }
  unfold_gradient<0>(parameters, folded.at, gradient);
  return loss / BANDS;
}

extern "C" int hpc_ae_num_parameters() { return NUM_PARAMETERS; }

extern "C" const char* hpc_ae_instructions() {
  return LANES == 16 ? "avx512" : LANES == 8 ? "avx2" : "128bit";
}
