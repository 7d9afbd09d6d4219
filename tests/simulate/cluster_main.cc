#include "simulate/cluster.h"
#include "simulate/run_seeds.h"

int main(int argc, char** argv) {
  return shoal::simulate::simulate_main(shoal::simulate::cluster_scenario(0), argc, argv);
}
