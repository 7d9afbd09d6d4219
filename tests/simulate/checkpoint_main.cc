#include "simulate/checkpoint.h"
#include "simulate/run_seeds.h"

int main(int argc, char** argv) {
  using namespace shoal::simulate;
  return simulate_main(checkpoint_scenario(kCheckpointNodes), argc, argv);
}
