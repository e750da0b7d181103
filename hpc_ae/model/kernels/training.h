// Forward with gradient, and whole steps of AdamW, over batches of rows.

#pragma once
#include <cmath>
#include <utility>
#include <vector>

#include "network.h"
#include "hiding.h"
#include "team.h"

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
    for (int n = 0; n < BLOCK && o0 + n < O; ++n) {
      float* row = gradient + (o0 + n) * I;
      for (int p = 0; p < I / LANES; ++p) add_to(row + p * LANES, sum[n][p]);
      for (int i = I / LANES * LANES; i < I; ++i) row[i] += sum[n][i / LANES][i % LANES];
    }
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

// A batch is cut into parts by its number of rows alone, each part sums its own gradient, and the parts are added in
// order: the same bits for any number of threads.
constexpr int PART_TILES = 4, MAX_PARTS = 8;

struct alignas(64) Part { Network gradient; double loss; };
struct alignas(64) Workspace { Saved saved; Tile delta, other, target; };

struct Batch {
  const float *mean, *deviation, *magnitude;
  const int64_t* index;
  int64_t num_rows;
  float factor;  // of the gradient
  const Noise* noise;  // of this batch's rows, or null
  const Hiding* hiding;  // the same

  int64_t num_tiles() const { return (num_rows + TILE - 1) / TILE; }
  int num_parts() const { return std::min<int64_t>(MAX_PARTS, (num_tiles() + PART_TILES - 1) / PART_TILES); }
};

// BANDS over the number of measured bands of each star: its loss is the mean over these.
static inline V weight_of_a_band(const Tile& target, int v) {
  V measured{};
  for (int b = 0; b < BANDS; ++b) measured += target.row[BANDS + b][v];
  return float(BANDS) / (measured > V{} ? measured : splat(1.0f));
}

static void add_tile(const Batch& batch, int64_t start, const float* net, Workspace& space, Part& part) {
  const int64_t rows = std::min<int64_t>(TILE, batch.num_rows - start);
  Saved& saved = space.saved;
  const Noise* noise = batch.noise;
  const int stride = noise ? noise->stride() : BANDS;
  load_tile(batch.magnitude, batch.index + start, rows, batch.mean, batch.deviation, saved.output[0], stride);
  if (noise)  // what the network sees is not what it is to answer
    add_noise(*noise, batch.magnitude, batch.index, start, rows, batch.deviation, saved.output[0], space.target);
  const bool differs = noise || batch.hiding;
  if (!noise && differs) std::memcpy(space.target.row, saved.output[0].row, sizeof(V) * VECTORS * WIDTHS[0]);
  if constexpr (MASKED)
    if (batch.hiding) hide_bands(*batch.hiding, start, rows, saved.output[0]);
  const Tile& target = differs ? space.target : saved.output[0];
  forward_saving<0>(net, saved);
  V share[VECTORS];  // of a band in the star's loss, times BANDS
  for (int v = 0; v < VECTORS; ++v) share[v] = MASKED ? weight_of_a_band(target, v) : splat(1.0f);
  for (int b = 0; b < BANDS; ++b)
    for (int v = 0; v < VECTORS; ++v) {
      V residual = (target.row[b][v] - saved.output[LAYERS].row[b][v]) * batch.deviation[b];
      for (int lane = 0; lane < LANES; ++lane)
        if (v * LANES + lane >= rows) residual[lane] = 0.0f;
      if constexpr (MASKED) {
        residual = residual * target.row[BANDS + b][v];
        part.loss += lane_sum(residual * residual * share[v]);
        space.delta.row[b][v] = residual * share[v] * (-2.0f / BANDS * batch.deviation[b] * batch.factor);
      } else {
        part.loss += lane_sum(residual * residual);
        space.delta.row[b][v] = residual * (-2.0f / BANDS * batch.deviation[b] * batch.factor);
      }
    }
  backward_layers<LAYERS - 1>(net, saved, &space.delta, &space.other, part.gradient.at);
}

// Everything that a gradient needs besides its batch; one for each call from Python.
struct Gradient {
  Network net;
  std::vector<Part> parts{MAX_PARTS};
  std::vector<Workspace> spaces;
  Team team;

  explicit Gradient(int num_threads) : spaces(std::max(1, num_threads)), team(std::max(1, num_threads)) {}

  // Sum over stars of the mean over bands of residual^2, mag^2; `gradient` gets that of the sum times batch.factor.
  double operator()(const float* parameters, const Batch& batch, float* gradient) {
    const int num_parts = batch.num_parts();
    fold_layers<0>(parameters, net.at);
    team.run([&](int member) {
      for (int p = member; p < num_parts; p += team.size()) {
        std::memset(parts[p].gradient.at, 0, sizeof(Network));
        parts[p].loss = 0;
        const int64_t last = (p + 1) * batch.num_tiles() / num_parts;
        for (int64_t tile = p * batch.num_tiles() / num_parts; tile < last; ++tile)
          add_tile(batch, tile * TILE, net.at, spaces[member], parts[p]);
      }
    });
    for (int p = 1; p < num_parts; ++p) {
      parts[0].loss += parts[p].loss;
      for (int i = 0; i < NUM_PARAMETERS; ++i) parts[0].gradient.at[i] += parts[p].gradient.at[i];
    }
    std::memset(gradient, 0, sizeof(float) * NUM_PARAMETERS);
    unfold_gradient<0>(parameters, parts[0].gradient.at, gradient);
    return parts[0].loss / BANDS;
  }
};

extern "C" double hpc_ae_gradient(const float* parameters, const float* mean, const float* deviation,
                                  const float* magnitude, const int64_t* index, int64_t num_rows, const Noise* noise,
                                  const Hiding* hiding, int num_threads, float* gradient) {
  Gradient compute(num_threads);
  return compute(parameters, Batch{mean, deviation, magnitude, index, num_rows, 1.0f, noise, hiding}, gradient);
}

// ---- many steps of AdamW -------------------------------------------------------------------------------------------

struct Optimizer { double beta1, beta2, epsilon, decay, clip_norm; };

// torch.optim.AdamW's update (Loshchilov & Hutter 2019) of step number `step` (from 1), after torch's clipping of the
// norm; decay 0 makes it Adam, an infinite clip_norm leaves the gradient as it is.
static void update(const Optimizer& with, double rate, int64_t step, float* parameters, const float* gradient,
                   float* first, float* second) {
  double squares[8] = {};
  for (int i = 0; i < NUM_PARAMETERS; ++i) squares[i % 8] += double(gradient[i]) * gradient[i];
  for (int k = 1; k < 8; ++k) squares[0] += squares[k];
  const float scale = float(std::min(1.0, with.clip_norm / (std::sqrt(squares[0]) + 1e-6)));
  const float beta1 = float(with.beta1), beta2 = float(with.beta2), epsilon = float(with.epsilon);
  const float rest1 = float(1 - with.beta1), rest2 = float(1 - with.beta2), keep = float(1 - rate * with.decay);
  const float length = float(rate / (1 - std::pow(with.beta1, double(step))));
  const float root = float(1 / std::sqrt(1 - std::pow(with.beta2, double(step))));
  for (int i = 0; i < NUM_PARAMETERS; ++i) {
    const float g = gradient[i] * scale;
    first[i] = beta1 * first[i] + rest1 * g;
    second[i] = beta2 * second[i] + rest2 * g * g;
    parameters[i] = parameters[i] * keep - length * first[i] / (__builtin_sqrtf(second[i]) * root + epsilon);
  }
}

extern "C" void hpc_ae_update(const Optimizer* with, double rate, int64_t steps_before, float* parameters,
                              const float* gradient, float* first, float* second) {
  update(*with, rate, steps_before + 1, parameters, gradient, first, second);
}

// `num_steps` steps, the rows of step s being index[s * num_rows ...], those of its noise noise->row[s * num_rows ...]
// and its step noise->step + s, hiding likewise (both may be null); returns the sum of their losses times `factor`.
extern "C" double hpc_ae_train(float* parameters, const float* mean, const float* deviation, const float* magnitude,
                               const int64_t* index, int64_t num_steps, int64_t num_rows, float factor,
                               const Noise* noise, const Hiding* hiding, const double* rates, int64_t steps_before,
                               const Optimizer* with, float* first, float* second, int num_threads) {
  Gradient compute(num_threads);
  std::vector<float> gradient(NUM_PARAMETERS);
  double loss = 0;
  for (int64_t s = 0; s < num_steps; ++s) {
    Noise drawn{};
    if (noise) drawn = {noise->row + s * num_rows, noise->step + s, noise->seed, noise->sigma, noise->echo};
    Hiding hidden{};
    if (hiding) hidden = {hiding->row + s * num_rows, hiding->step + s, hiding->threshold, hiding->seed, hiding->least};
    const Batch batch{mean, deviation, magnitude, index + s * num_rows, num_rows, factor, noise ? &drawn : nullptr,
                      hiding ? &hidden : nullptr};
    loss += compute(parameters, batch, gradient.data()) * factor;
    update(*with, rates[s], steps_before + s + 1, parameters, gradient.data(), first, second);
  }
  return loss;
}
