#include "simulate/one_node.h"
#include "simulate/run_seeds.h"

int main(int argc, char** argv) {
  return shoal::simulate::simulate_main(shoal::simulate::one_node_scenario(), argc, argv);
}
