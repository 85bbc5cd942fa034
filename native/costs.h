// How long a step takes: penstock/cost/stage.py and attention.py over tables that Python has compiled.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

#include "step.h"

namespace penstock {

// Lookups beyond one measured limit: how many, and the furthest.
struct Outside {
  int64_t count = 0;
  int64_t furthest = 0;

  void note(int64_t value, int64_t limit) {
    if (value <= limit) return;
    ++count;
    furthest = std::max(furthest, value);
  }
};

// The attention of one kind of layer; see AttentionLookup in attention.py.
struct Attention {
  int64_t limits[4];  // new prefill tokens, decodes, prefill context, decode context
  int64_t strides[3];
  std::vector<double> intercepts, slopes;
  std::vector<uint8_t> segment;
  std::vector<int64_t> chunk_offsets, decode_offsets;
  std::vector<double> chunk_weights, decode_weights;
  std::vector<double> chunk_axis, decode_axis, prefill_axis;
  bool has_skew = false;
  std::vector<double> alpha;
  int64_t alpha_shape[5];
  std::vector<int64_t> chunk_alpha;
  std::vector<double> decode_edges, rate_edges, longest_edges, prefill_edges;
  // By the number of decodes: lines over context, and which table of alphas.
  int64_t rows = 0, row_width = 0;
  std::vector<double> row_intercepts, row_slopes;
  std::vector<int64_t> row_alphas;
  std::vector<double> alpha_tables;
  int64_t alpha_table_size = 0;

  static int64_t bin(const std::vector<double>& edges, double value) {
    return std::lower_bound(edges.begin(), edges.end(), value) - edges.begin();
  }

  double decode_ns(const Load& load, Outside* outside) const {
    const double* low = &row_intercepts[static_cast<size_t>(load.decodes * row_width)];
    const double* slope = &row_slopes[static_cast<size_t>(load.decodes * row_width)];
    const int64_t limit = limits[3], longest = load.max_context, shortest = load.min_context;
    const double mean = static_cast<double>(load.decode_context) / static_cast<double>(load.decodes);
    int64_t k = mean < static_cast<double>(limit) ? segment[static_cast<size_t>(mean)] : row_width - 1;
    double time = low[k] + slope[k] * mean;
    if (longest > limit || load.decodes > limits[1]) {
      outside[1].note(load.decodes, limits[1]);
      outside[3].note(longest, limit);
    }
    if (has_skew && longest > shortest) {
      const double rate = (mean - static_cast<double>(shortest)) / static_cast<double>(longest - shortest);
      const double* alphas =
          &alpha_tables[static_cast<size_t>(row_alphas[static_cast<size_t>(load.decodes)] * alpha_table_size)];
      const double share = alphas[bin(rate_edges, rate) * (static_cast<int64_t>(longest_edges.size()) + 1) +
                                  bin(longest_edges, static_cast<double>(longest))];
      k = longest < limit ? segment[static_cast<size_t>(longest)] : row_width - 1;
      time += share * (low[k] + slope[k] * static_cast<double>(longest) - time);
    }
    return time;
  }

  double mixed_ns(const Load& load, Outside* outside) const {
    const int64_t chunk = load.prefill_tokens, history = load.prefill_context, decodes = load.decodes;
    const int64_t shortest = load.min_context, longest = load.max_context;
    if (chunk > limits[0] || history > limits[2] || decodes > limits[1] || longest > limits[3]) {
      outside[0].note(chunk, limits[0]);
      outside[1].note(decodes, limits[1]);
      outside[2].note(history, limits[2]);
      outside[3].note(longest, limits[3]);
    }
    double weights[3];
    int64_t position = place(chunk_axis, strides[0], chunk_offsets, chunk_weights, chunk, weights[0]);
    position += place(decode_axis, strides[1], decode_offsets, decode_weights, decodes, weights[1]);
    weights[2] = 0.0;
    if (history) {
      const std::vector<double>& axis = prefill_axis;
      const int64_t above =
          std::upper_bound(axis.begin(), axis.end(), static_cast<double>(history)) - axis.begin();
      const size_t low = static_cast<size_t>(std::min(above, static_cast<int64_t>(axis.size()) - 1) - 1);
      weights[2] = (static_cast<double>(history) - axis[low]) / (axis[low + 1] - axis[low]);
      position += static_cast<int64_t>(low) * strides[2];
    }
    if (!decodes) return at(position, weights, 0, 0.0);
    const int64_t limit = limits[3];
    const double mean = static_cast<double>(load.decode_context) / static_cast<double>(decodes);
    double time = at(position, weights, segment_of(mean), mean);
    if (has_skew && longest > shortest) {
      const double furthest = static_cast<double>(longest);
      const int64_t k = longest < limit ? segment[static_cast<size_t>(longest)] : strides[2] - 1;
      const double rate = (mean - static_cast<double>(shortest)) / static_cast<double>(longest - shortest);
      int64_t i = chunk < static_cast<int64_t>(chunk_alpha.size()) ? chunk_alpha[static_cast<size_t>(chunk)]
                                                                  : alpha_shape[0] - 1;
      i = i * alpha_shape[1] + bin(decode_edges, static_cast<double>(decodes));
      i = i * alpha_shape[2] + bin(rate_edges, rate);
      i = i * alpha_shape[3] + bin(longest_edges, furthest);
      i = i * alpha_shape[4] + bin(prefill_edges, static_cast<double>(history));
      time += alpha[static_cast<size_t>(i)] * (at(position, weights, k, furthest) - time);
    }
    return time;
  }

 private:
  int64_t segment_of(double mean) const {
    return mean < static_cast<double>(limits[3]) ? segment[static_cast<size_t>(mean)] : strides[2] - 1;
  }

  static int64_t place(const std::vector<double>& axis, int64_t stride, const std::vector<int64_t>& offsets,
                       const std::vector<double>& weights, int64_t size, double& weight) {
    if (size < static_cast<int64_t>(offsets.size())) {
      weight = weights[static_cast<size_t>(size)];
      return offsets[static_cast<size_t>(size)];
    }
    weight = 0.0;
    if (axis.size() == 1) return 0;
    const double value = static_cast<double>(size);
    const int64_t above = std::upper_bound(axis.begin(), axis.end(), value) - axis.begin();
    const size_t low = static_cast<size_t>(std::min(above, static_cast<int64_t>(axis.size()) - 1) - 1);
    weight = (value - axis[low]) / (axis[low + 1] - axis[low]);
    return static_cast<int64_t>(low) * stride;
  }

  double at(int64_t position, const double* weights, int64_t k, double context) const {
    const int64_t i = position + k;
    double time = plane(i, weights, context);
    if (weights[2] != 0.0) time += weights[2] * (plane(i + strides[2], weights, context) - time);
    return time;
  }

  double line(int64_t i, double context) const {
    return intercepts[static_cast<size_t>(i)] + slopes[static_cast<size_t>(i)] * context;
  }

  double plane(int64_t i, const double* weights, double context) const {
    double low = line(i, context);
    if (weights[0] != 0.0) low += weights[0] * (line(i + strides[0], context) - low);
    if (weights[1] != 0.0) {
      i += strides[1];
      double high = line(i, context);
      if (weights[0] != 0.0) high += weights[0] * (line(i + strides[0], context) - high);
      low += weights[1] * (high - low);
    }
    return low;
  }
};

// Stages of one hardware; see TabulatedStageCost in stage.py.
struct Tabulated {
  std::vector<int64_t> stages;                // which of the pipeline's they are
  std::vector<std::vector<int64_t>> dense;    // by role, by tokens
  std::vector<int64_t> roles;                 // of each stage
  bool has_head = false;
  std::vector<int64_t> head;                  // by sequences
  int64_t dense_limit = 0, head_limit = 0;
  double mixed_extra = 0;
  std::vector<Attention> attentions;
  std::vector<std::vector<int64_t>> layers;   // by attention, by stage

  bool covers(int64_t tokens, const Load& load) const {
    if (tokens >= static_cast<int64_t>(dense[0].size())) return false;
    if (has_head && load.sampled >= static_cast<int64_t>(head.size())) return false;
    if (load.prefill_tokens) return true;
    for (const Attention& attention : attentions) {
      if (load.decodes >= attention.rows) return false;
    }
    return true;
  }

  // `outside`: tokens, sampled sequences, then four of each attention.
  void stage_ns(const Load& load, int64_t tokens, Outside* outside, int64_t* times) const {
    if (tokens > dense_limit || load.sampled > head_limit) {
      outside[0].note(tokens, dense_limit);
      outside[1].note(load.sampled, head_limit);
    }
    for (size_t kind = 0; kind < attentions.size(); ++kind) {
      Outside* beyond = outside + 2 + 4 * kind;
      const int64_t attention =
          load.prefill_tokens ? static_cast<int64_t>(attentions[kind].mixed_ns(load, beyond) + mixed_extra)
                              : static_cast<int64_t>(attentions[kind].decode_ns(load, beyond) + 0.5);
      const std::vector<int64_t>& counts = layers[kind];
      for (size_t stage = 0; stage < stages.size(); ++stage) {
        const int64_t part = counts[stage] * attention;
        int64_t& time = times[stages[stage]];
        if (kind) time += part;
        else time = dense[static_cast<size_t>(roles[stage])][static_cast<size_t>(tokens)] + part;
      }
    }
    if (has_head) times[stages.back()] += head[static_cast<size_t>(load.sampled)];
  }
};

// A straight line in tokens and context; see linear.py.
struct Line {
  double base_ns, per_token_ns, per_context_ns;
};

struct Hop {
  std::vector<int64_t> arrival_ns, occupancy_ns;
};

// Everything that the clocks of an instance need; instances that are alike share it.
struct Costs {
  int64_t pp_size = 1;
  std::vector<Tabulated> parts;
  std::vector<Line> lines;
  std::vector<Hop> hops;
  std::vector<int64_t> return_ns;

  size_t count_outside() const {
    size_t count = 0;
    for (const Tabulated& part : parts) count += 2 + 4 * part.attentions.size();
    return count;
  }

  // Whether all tables go as far as such a step.
  bool cover(const Load& load, int64_t tokens) const {
    for (const Tabulated& part : parts) {
      if (!part.covers(tokens, load)) return false;
    }
    return true;
  }

  void stage_ns(const Load& load, int64_t tokens, std::vector<Outside>& outside, int64_t* times) const {
    size_t place = 0;
    for (const Tabulated& part : parts) {
      part.stage_ns(load, tokens, &outside[place], times);
      place += 2 + 4 * part.attentions.size();
    }
    const double context = static_cast<double>(load.prefill_context + load.decode_context);
    for (size_t stage = 0; stage < lines.size(); ++stage) {
      const Line& line = lines[stage];
      times[stage] = static_cast<int64_t>(std::nearbyint(
          line.base_ns + line.per_token_ns * static_cast<double>(tokens) + line.per_context_ns * context));
    }
  }
};

}  // namespace penstock
