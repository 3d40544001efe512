// The feed-forward part of a layer: dense, or routed and shared experts (SPEC 2.5, 2.6). Tokens are grouped by expert, one product per
// touched expert; each token's sum is formed in slot order afterwards, so it does not depend on the neighbours.

import CEngine
import CKernels
import ModelFile

struct MixtureOfExperts {
  let shape: Hyperparameters
  let scratch: Scratch
  let workers: qe_workers
  let log: StageLog

  /// Reads `scratch.normed`; leaves the output in `scratch.delta` [tokens, hidden].
  func runDense(_ weights: GatedWeights, hiddenNeeds: ActivationNeeds, tokens: Int) {
    multiply(.gateUp, addGateUp(weights, scratch.dense, tokens: tokens, at: 0))
    if !weights.isFused {
      var silu = scratch.dense.silu(rows: tokens, needs: hiddenNeeds)
      qe_run_silu(workers, &silu, nil)
      log.mark(.activate)
    }
    addDown(weights.down, scratch.dense, tokens: tokens, at: 0)
    multiply(.down, 1)
  }

  /// Reads `scratch.normed`; leaves the routed experts' outputs in `scratch.expertOut` (with `pairOfSlot` and `slotWeights`), the shared
  /// experts' in `scratch.delta`. `load` [experts] counts the tokens of each expert.
  func runExperts(_ weights: ExpertWeights, tokens: Int, load: UnsafeMutablePointer<UInt64>) {
    let experts = shape.expertCount
    scratch.tasks[0] = qk_matmul_task(
      w: weights.router.descriptor, x: scratch.normed.f32, x_stride: scratch.normed.columns, index: nil, tokens: tokens,
      y: scratch.routerLogits, y_stride: experts)
    multiply(.route, 1)
    route(weights, tokens: tokens, load: load)
    log.mark(.route)

    // The shared experts see every token, the routed ones few each: while one core still multiplies, another has the memory to itself.
    var count = 0
    if let shared = weights.shared { count += addGateUp(shared, scratch.shared, tokens: tokens, at: count) }
    for expert in 0..<experts { count += addRouted(weights, expert, at: count) }
    multiply(.gateUp, count)
    activate(weights, tokens: tokens)

    count = 0
    if let shared = weights.shared {
      addDown(shared.down, scratch.shared, tokens: tokens, at: count)
      count += 1
    }
    for expert in 0..<experts where addRoutedDown(weights.down[expert], expert, at: count) { count += 1 }
    multiply(.down, count)
  }

  /// The hidden activations of what was not fused.
  private func activate(_ weights: ExpertWeights, tokens: Int) {
    var routed = scratch.routed.silu(rows: weights.isFused ? 0 : tokens * shape.expertsPerToken, needs: weights.hiddenNeeds)
    var shared = scratch.shared.silu(rows: weights.shared?.isFused ?? true ? 0 : tokens, needs: weights.sharedHiddenNeeds)
    guard routed.count + shared.count > 0 else { return }
    qe_run_silu(workers, &routed, &shared)
    log.mark(.activate)
  }

  /// Runs the first `count` tasks.
  private func multiply(_ stage: Stage, _ count: Int) {
    qk_pool_matmul(workers.pool, workers.kernels, scratch.tasks, count)
    log.add(stage, scratch.tasks, count: count)
    log.mark(stage)
  }

  private func route(_ weights: ExpertWeights, tokens: Int, load: UnsafeMutablePointer<UInt64>) {
    var route = qe_route(
      count: tokens, experts: shape.expertCount, chosen: shape.expertsPerToken, groups: shape.groupCount,
      groups_kept: shape.groupsPerToken, logits: scratch.routerLogits, bias: weights.bias, sigmoid: shape.scoring == .sigmoid,
      selection: shape.selection.kernelSelection, normalize: shape.normalizesTopK, scale: shape.routedScale,
      slots: scratch.slotExperts, weights: scratch.slotWeights)
    qe_run_route(workers, &route)
    var grouping = qe_grouping(
      count: tokens, experts: shape.expertCount, chosen: shape.expertsPerToken, slots: scratch.slotExperts, first: scratch.firstPair,
      pair_token: scratch.pairToken, pair_of_slot: scratch.pairOfSlot, load: load)
    qe_group_by_expert(&grouping)
  }

  private func pairs(of expert: Int) -> Range<Int> { Int(scratch.firstPair[expert])..<Int(scratch.firstPair[expert + 1]) }

  /// Gate and up products of one expert over its tokens; how many tasks: none if no token chose it.
  private func addRouted(_ weights: ExpertWeights, _ expert: Int, at place: Int) -> Int {
    let pairs = pairs(of: expert)
    guard !pairs.isEmpty else { return 0 }
    let (gate, up) = (weights.gate[expert], weights.up[expert])
    let source = scratch.normed.source(for: gate)
    let width = scratch.routed.gate.columns
    let hidden = pairs.lowerBound * width
    var task = qk_matmul_task(
      w: gate.descriptor, x: source.pointer, x_stride: source.stride, index: scratch.pairToken + pairs.lowerBound, tokens: pairs.count,
      y: scratch.routed.gate.f32 + hidden, y_stride: width)
    if weights.isFused { return fuse(&task, up, scratch.routed.hidden(row: pairs.lowerBound), at: place) }
    scratch.tasks[place] = task
    task.w = up.descriptor
    task.x = scratch.normed.source(for: up).pointer
    task.y = scratch.routed.up + hidden
    scratch.tasks[place + 1] = task
    return 2
  }

  private func fuse(
    _ task: inout qk_matmul_task, _ up: Matrix, _ hidden: (rows: UnsafeMutableRawPointer?, bytes: Int), at place: Int
  ) -> Int {
    task.up = up.descriptor
    task.hidden = hidden.rows
    task.hidden_bytes = hidden.bytes
    scratch.tasks[place] = task
    return 1
  }

  private func addRoutedDown(_ down: Matrix, _ expert: Int, at place: Int) -> Bool {
    let pairs = pairs(of: expert)
    guard !pairs.isEmpty else { return false }
    let source = scratch.routed.gate.source(for: down, row: pairs.lowerBound)
    scratch.tasks[place] = qk_matmul_task(
      w: down.descriptor, x: source.pointer, x_stride: source.stride, index: nil, tokens: pairs.count,
      y: scratch.expertOut + pairs.lowerBound * down.rows, y_stride: down.rows)
    return true
  }

  /// How many tasks.
  private func addGateUp(_ weights: GatedWeights, _ target: GatedScratch, tokens: Int, at place: Int) -> Int {
    var gate = task(weights.gate, scratch.normed, tokens: tokens, y: target.gate.f32)
    if weights.isFused { return fuse(&gate, weights.up, target.hidden(), at: place) }
    scratch.tasks[place] = gate
    scratch.tasks[place + 1] = task(weights.up, scratch.normed, tokens: tokens, y: target.up)
    return 2
  }

  private func addDown(_ down: Matrix, _ hidden: GatedScratch, tokens: Int, at place: Int) {
    scratch.tasks[place] = task(down, hidden.gate, tokens: tokens, y: scratch.delta)
  }

  private func task(_ matrix: Matrix, _ x: ActivationBuffer, tokens: Int, y: UnsafeMutablePointer<Float>) -> qk_matmul_task {
    let source = x.source(for: matrix)
    return qk_matmul_task(
      w: matrix.descriptor, x: source.pointer, x_stride: source.stride, index: nil, tokens: tokens, y: y, y_stride: matrix.rows)
  }
}

extension Hyperparameters.Selection {
  var kernelSelection: qe_selection {
    switch self {
    case .greedy: QE_GREEDY
    case .groupLimitedGreedy: QE_GROUP_MAX
    case .biasedGroups: QE_GROUP_BIASED
    }
  }
}
