// The autoencoder in one pass over tiles of TILE stars that stay in the cache through all layers: forward, and forward
// with gradient. Built at first use for one architecture (HPC_AE_WIDTHS: the widths of the whole chain, HPC_AE_LATENT:
// how many layers the encoder has) and for this processor; hpc_ae/model/kernel.py builds and calls it.
//
// Layout: activations are feature-major, [width][TILE], so that SIMD lanes are stars. Every star goes through the same
// operations in the same order whatever its lane: outputs do not depend on position, company, or number of threads.
// A masked network (its input is twice its output) sees behind the magnitudes which of them are measured: NaN is not.
// LayerNorm's scale and shift are folded into the next layer's weights (`fold`), its centring is done explicitly.
// Legend: T stars of a tile, I inputs, O outputs of a layer, V lanes.

#include "encode.h"
#include "training.h"

extern "C" int hpc_ae_num_parameters() { return NUM_PARAMETERS; }

extern "C" const char* hpc_ae_instructions() {
  return LANES == 16 ? "avx512" : LANES == 8 ? "avx2" : "128bit";
}
